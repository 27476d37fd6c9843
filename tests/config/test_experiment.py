"""Experiments: files in, components out; overrides, and where an experiment is found."""

from pathlib import Path

import pytest

from gcsearch.config import Experiment, find_experiment
from gcsearch.errors import ConfigError
from gcsearch.registry import registries
from gcsearch.science.couplings import Generator, Independent
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.networks.unet import UNet
from gcsearch.science.optimizers import Lion
from gcsearch.science.samplers import Multistep

HEAD = "name: x\ndata: digits\n"


def test_all_but_name_and_data_has_a_default(load):
    experiment = load(HEAD)
    assert experiment == Experiment(name="x", data=registries["data"]["digits"]())
    assert (experiment.seed, experiment.network, experiment.optimizer) == (0, UNet(), Lion())
    assert (experiment.training.num_images, experiment.evaluation.every_images) == (512_000, 64_000)


@pytest.mark.parametrize("missing", ["name", "data"])
def test_name_and_data_have_no_default(message, missing):
    text = "".join(line for line in HEAD.splitlines(keepends=True) if not line.startswith(missing))
    assert message(text) == f"FILE: FILE must have the key '{missing}', which is missing."


def test_numbers_in_every_spelling_reach_their_fields(load):
    experiment = load(
        HEAD
        + "optimizer: {lr: 1e-4, weight_decay: 0}\n"
        + "training: {num_images: 512_000, batch_size: 1.28e2}\n"
        + "evaluation: {every_images: 5e4}\n"
    )
    assert experiment.optimizer == Lion(lr=0.0001, weight_decay=0.0)
    assert type(experiment.optimizer.weight_decay) is float
    assert (experiment.training.num_images, experiment.training.batch_size) == (512_000, 128)
    assert experiment.evaluation.every_images == 50_000
    assert type(experiment.evaluation.every_images) is int


def test_a_section_is_a_name_or_a_mapping_and_without_a_name_the_default(load):
    assert load(HEAD + "network: mlp\n").network == MLP()
    assert load(HEAD + "network: {name: mlp, width: 8}\n").network == MLP(width=8)
    assert load(HEAD + "optimizer: {lr: 1e-3}\n").optimizer == Lion(lr=1e-3)
    assert load(HEAD + "coupling: {}\n").coupling == Generator()


@pytest.mark.parametrize(
    ("assignment", "read", "value"),
    [
        ("seed=3", lambda e: e.seed, 3),
        ("coupling.mu=0.25", lambda e: e.coupling, Generator(mu=0.25)),
        ("coupling.mu=1", lambda e: e.coupling, Generator(mu=1.0)),
        ("coupling=independent", lambda e: e.coupling, Independent()),
        ("coupling.name=independent", lambda e: e.coupling, Independent()),
        ("coupling={name: generator, start: 0.5}", lambda e: e.coupling, Generator(start=0.5)),
        ("network.width=8", lambda e: e.network, MLP(width=8)),
        ("training.num_images=1e5", lambda e: e.training.num_images, 100_000),
        ("evaluation.sampler=multistep", lambda e: e.evaluation.sampler, Multistep()),
        (
            "evaluation.sampler={name: multistep, levels: [2, 1]}",
            lambda e: e.evaluation.sampler,
            Multistep(levels=(2.0, 1.0)),
        ),
        ("evaluation.metrics=[kid]", lambda e: [metric.name for metric in e.evaluation.metrics], ["kid"]),
        ("name=other", lambda e: e.name, "other"),
    ],
)
def test_an_override_is_typed_reaches_inside_bare_names_and_replaces_sections(load, assignment, read, value):
    text = HEAD + "network: mlp\ncoupling: generator\nevaluation: {sampler: one_step}\n"
    assert read(load(text)) != value
    assert read(load(text, [assignment])) == value


# Finding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("digits", "cifar10"):
        path = tmp_path / "experiments" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEAD)
    (tmp_path / "search_spaces").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return tmp_path


def test_an_experiment_is_found_by_name_beside_the_file_that_mentions_it(project):
    study = project / "search_spaces" / "study.yaml"
    assert find_experiment("digits", beside=study) == project / "experiments" / "digits.yaml"
    assert find_experiment("digits", beside=project / "study.yaml") == project / "experiments" / "digits.yaml"


def test_an_experiment_is_found_by_name_in_the_present_folder(project, monkeypatch):
    monkeypatch.chdir(project)
    assert find_experiment("digits") == Path("experiments/digits.yaml")


def test_an_experiment_is_found_by_path_also_relative_to_the_file_that_mentions_it(project):
    path = project / "experiments" / "digits.yaml"
    assert find_experiment(str(path)) == path
    found = find_experiment("../experiments/digits.yaml", beside=project / "search_spaces" / "study.yaml")
    assert found.resolve() == path.resolve()


def test_an_unknown_experiment_is_refused_with_the_nearest_name(project, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(
        ConfigError, match=r"experiment 'digit': no file .*Did you mean 'digits'\? Known: cifar10, digits"
    ):
        find_experiment("digit")
    monkeypatch.chdir(project / "elsewhere")
    with pytest.raises(ConfigError, match="Known: none"):
        find_experiment("digits")
