"""Experiments: files in, components out; fingerprints; what a user's mistakes look like."""

import dataclasses
import hashlib
import json
import re
import typing
from pathlib import Path

import pytest

from gcsearch.config import Experiment, find_experiment, load_experiment, read_document
from gcsearch.config.documents import dump_yaml
from gcsearch.config.experiment import Training
from gcsearch.errors import ConfigError
from gcsearch.registry import registries, spec
from gcsearch.science.couplings import Generator, Independent
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.networks.unet import UNet
from gcsearch.science.optimizers import Lion
from gcsearch.science.samplers import Multistep, OneStep
from gcsearch.science.schedules import Exponential

HEAD = "name: x\ndata: digits\n"


@pytest.fixture
def load(tmp_path):
    def from_text(text, assignments=()):
        path = tmp_path / "file.yaml"
        path.write_text(text, encoding="utf-8")
        return load_experiment(path, assignments)

    return from_text


@pytest.fixture
def message(load):
    def of(text, assignments=()):
        with pytest.raises(ConfigError) as error:
            load(text, assignments)
        return re.sub(r"\S*/file\.yaml", "FILE", str(error.value))

    return of


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


# Mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES = {
    "unknown section": ("nettwork: mlp", "FILE:3: FILE has no key 'nettwork'. Did you mean 'network'? Known: coupling"),
    "dotted key": ("coupling.mu: 0.3", "FILE:3: FILE has no key 'coupling.mu'. Did you mean 'coupling'?"),
    "key of two lines": ('"a\\nb": 3', r"FILE:3: FILE has no key 'a\nb'."),
    "empty key": ("'': 3", "FILE:3: FILE has no key ''."),
    "unknown component": (
        "\ncoupling: {name: genertor}",
        "FILE:4: coupling: unknown coupling 'genertor'. Did you mean 'generator'? Known: generator, independent",
    ),
    "unknown bare name": ("network: umet", "FILE:3: network: unknown network 'umet'. Did you mean 'unet'?"),
    "unknown field": (
        "coupling:\n  name: generator\n  muu: 0.5",
        "FILE:5: coupling 'generator' has no key 'muu'. Did you mean 'mu'? Known: ",
    ),
    "unknown setting": (
        "training: {num_image: 3}",
        "FILE:3: 'training' has no key 'num_image'. Did you mean 'num_images'?",
    ),
    "field of another component": (
        "coupling: {name: independent, mu: 1}",
        "FILE:3: coupling 'independent' has no key 'mu'.",
    ),
    "name is no word": ("network: {name: 3}", "FILE:3: network.name must be a word, got 3."),
    "name is empty": ("network: ''", "FILE:3: network: unknown network ''. Known: mlp, "),
    "section is empty": ("network:", "FILE:3: network must be a network's name or a mapping with a name, got None."),
    "section is a number": ("network: 3", "FILE:3: network must be a network's name or a mapping with a name, got 3."),
    "section is a list": (
        "optimizer: [lion]",
        "FILE:3: optimizer must be a optimizer's name or a mapping with a name, got ['lion'].",
    ),
    "settings are empty": ("training:", "FILE:3: training must be a mapping, got None."),
    "settings are a list": ("evaluation: [fid]", "FILE:3: evaluation must be a mapping, got ['fid']."),
    "word for a number": ("optimizer: {lr: fast}", "FILE:3: optimizer.lr must be a number, got 'fast'."),
    "quoted number": ("optimizer: {lr: '1e-4'}", "FILE:3: optimizer.lr must be a number, got '1e-4'."),
    "truth for a number": ("optimizer: {lr: true}", "FILE:3: optimizer.lr must be a number, got True."),
    "truth for an integer": ("seed: true", "FILE:3: seed must be an integer, got True."),
    "null for a number": ("optimizer: {lr: null}", "FILE:3: optimizer.lr must be a number, got None."),
    "fraction": ("seed: 0.5", "FILE:3: seed must be an integer, got 0.5."),
    "infinite integer": ("seed: .inf", "FILE:3: seed must be an integer, got inf."),
    "infinite number": ("optimizer: {lr: .inf}", "FILE:3: optimizer.lr must be finite, got inf."),
    "overflowing number": ("optimizer: {lr: 1e400}", "FILE:3: optimizer.lr must be finite, got inf."),
    "no number": ("optimizer: {lr: .nan}", "FILE:3: optimizer.lr must be finite, got nan."),
    "no number in a list": (
        "optimizer: {betas: [.nan, 0.5]}",
        "FILE:3: optimizer.betas must be finite, got [nan, 0.5].",
    ),
    "number for truth": ("training: {compile: 1}", "FILE:3: training.compile must be true or false, got 1."),
    "yaml 1.1 truth": ("training: {compile: on}", "FILE:3: training.compile must be true or false, got 'on'."),
    "literal": ("training: {precision: fp16}", "FILE:3: training.precision must be one of 'fp32', 'bf16', got 'fp16'."),
    "too many": ("optimizer: {betas: [0.9, 0.9, 0.9]}", "FILE:3: optimizer.betas must be a list of 2 numbers, got"),
    "below range": ("coupling: {mu: -0.1}", "FILE:3: coupling.mu must be in [0, 1], got -0.1."),
    "above range": ("coupling:\n  mu: 1.5", "FILE:4: coupling.mu must be in [0, 1], got 1.5."),
    "negative seed": ("seed: -1", "FILE:3: seed must be >= 0, got -1."),
    "two fields": (
        "coupling: {start: 0.9, end: 0.1}",
        "FILE:3: coupling.start and end must satisfy 0 <= start < end <= 1, got 0.9 and 0.1.",
    ),
    "later needs earlier": (
        "process: {sigma_min: 90}",
        "FILE:3: process.sigma_max must be > sigma_min = 90.0, got 80.0.",
    ),
    "beyond float32": ("process: {sigma_max: 1e39}", "FILE:3: process must have a grid of finite levels, got"),
    "overflow in the grid": ("process: {rho: 1e-3}", "FILE:3: process must have a grid of finite levels, got"),
    "no images": ("training: {num_images: 0}", "FILE:3: training.num_images must be at least 1, got 0."),
    "batch of more than all": (
        "training: {num_images: 100}",
        "FILE:3: training.batch_size must be at most num_images = 100, got 128.",
    ),
    "several workers": (
        "training: {num_workers: 2}",
        "FILE:3: training.num_workers must be 1, got 2. Training over several",
    ),
    "nested name": (
        "evaluation:\n  every_images: 10_000\n  sampler: {name: multistp}",
        "FILE:5: evaluation.sampler: unknown sampler 'multistp'. Did you mean 'multistep'?",
    ),
    "nested field": (
        "evaluation:\n  sampler:\n    name: multistep\n    lvels: [1.0]",
        "FILE:6: sampler 'multistep' has no key 'lvels'. Did you mean 'levels'?",
    ),
    "nested type": (
        "evaluation:\n  sampler:\n    name: multistep\n    clip: 3",
        "FILE:6: evaluation.sampler.clip must be true or false, got 3.",
    ),
    "nested range": (
        "evaluation:\n  sampler:\n    name: multistep\n    levels: [1.0, 2.0]",
        "FILE:6: evaluation.sampler.levels must be decreasing, got [1.0, 2.0].",
    ),
    "metric": (
        "evaluation:\n  metrics:\n  - fid\n  - fidd",
        "FILE:6: evaluation.metrics.1: unknown metric 'fidd'. Did you mean 'fid'?",
    ),
    "metric's field": (
        "evaluation:\n  metrics:\n  - fid\n  - {name: kid, subset_size: 1}",
        "FILE:6: evaluation.metrics.1.subset_size must be at least 2, got 1.",
    ),
    "no metric": (
        "evaluation: {metrics: []}",
        "FILE:3: evaluation.metrics must name at least one metric and none twice, got [].",
    ),
    "metric twice": ("evaluation: {metrics: [fid, fid]}", "FILE:3: evaluation.metrics must name at least one"),
    "few samples": ("evaluation: {num_samples: 3}", "FILE:3: evaluation.num_samples must be at least 16, got 3."),
    "unknown extractor": (
        "evaluation: {extractor: digit}",
        "FILE:3: evaluation.extractor must be auto or a feature extractor, got 'digit'. Did you mean 'digits'?",
    ),
    "extractor does not fit": (
        "evaluation:\n  extractor: coordinates",
        "FILE:4: evaluation.extractor does not fit the data 'digits': extractor 'coordinates': examples must be points",
    ),
    "network does not fit": (
        "network:\n  channel_mult: [1, 1, 1, 1, 1]",
        "FILE:3: network does not fit the data 'digits': height and width must be multiples of ",
    ),
    "evaluated too rarely": (
        "training: {num_images: 1000}\nevaluation:\n  every_images: 2000",
        "FILE:5: evaluation.every_images must be at most training.num_images = 1000, got 2000.",
    ),
    "level above the process": (
        "evaluation: {sampler: {name: multistep, levels: [80.0, 1.0]}}",
        "FILE:3: evaluation.sampler.levels must lie between sigma_min = 0.002 and sigma_max = 80.0, got [80.0, 1.0].",
    ),
    "level below the process": (
        "evaluation: {sampler: {name: multistep, levels: [1.0, 0.002]}}",
        "FILE:3: evaluation.sampler.levels must lie between sigma_min = 0.002 and sigma_max = 80.0, got [1.0, 0.002].",
    ),
    "duplicate key": ("coupling: {mu: 0.1, mu: 0.2}", "FILE:3: a key is written twice"),
    "invalid yaml": ("coupling: {mu: 0.1", "FILE:4: is not valid YAML"),
    "date": ("seed: 2020-01-01", "FILE:3: must be a number, word, list or mapping"),
    "half a character": ('network: {name: mlp, width: "\\ud800"}', "FILE:3: network.width must be"),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_with_one_line_that_says_where_what_and_why(message, text, expected):
    said = message(f"{HEAD}{text}\n")
    assert said.startswith(expected)
    assert "\n" not in said
    assert said.endswith(".")
    assert not said.endswith("..")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("name: x\ndata: {name: digit}\n", "FILE:2: data: unknown data 'digit'. Did you mean 'digits'?"),
        ("name: x\ndata: {}\n", "FILE:2: data must have a name. Known: "),
        ("name: x\ndata:\n", "FILE:2: data must be a data's name or a mapping with a name, got None."),
        ("name: ''\ndata: digits\n", "FILE:1: name must not be empty, got ''."),
        ("name: 3\ndata: digits\n", "FILE:1: name must be a word, got 3."),
        ("name: null\ndata: digits\n", "FILE:1: name must be a word, got None."),
        ('name: "\\ud800"\ndata: digits\n', "FILE:1: name must be text that UTF-8 can hold, got "),
        (
            "name: x\ndata: gaussians_1m2m\nnetwork: unet\n",
            "FILE:3: network does not fit the data 'gaussians_1m2m': network 'unet' needs images",
        ),
        ("name: x\ndata: gaussians_1m2m\n", "FILE: network does not fit the data 'gaussians_1m2m'"),
        (
            "name: x\ndata: gaussians_1m2m\nnetwork: mlp\nevaluation: {extractor: digits}\n",
            "FILE:4: evaluation.extractor does not fit the data 'gaussians_1m2m': extractor 'digits'",
        ),
        ("name: x\ndata:\n  name: gaussians_1m2m\n  std: 0\nnetwork: mlp\n", "FILE:4: data.std must be > 0, got 0.0."),
        (
            "name: x\ndata: digits\nlevels: {mean: 1e300}\n",
            "FILE:3: levels must put weight between sigma_min = 0.002 and sigma_max = 80.0, got ",
        ),
    ],
)
def test_a_mistake_in_name_or_data_or_between_sections_is_answered_too(message, head, expected):
    said = message(head)
    assert said.startswith(expected)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("coupling.mu=1.5", "--set coupling.mu=1.5: coupling.mu must be in [0, 1], got 1.5."),
        ("coupling.muu=1", "--set coupling.muu=1: coupling 'generator' has no key 'muu'. Did you mean 'mu'?"),
        ("optimizer.lr='1e-3'", "--set optimizer.lr='1e-3': optimizer.lr must be a number, got '1e-3'."),
        ("network=umet", "--set network=umet: network: unknown network 'umet'. Did you mean 'unet'?"),
        ("seed=", "--set seed=: seed must be an integer, got None."),
        ("seed.x=1", "--set seed.x=1: 'seed' is not a section, so 'seed.x' cannot be set."),
        ("evaluation.metrics.0=kid", "--set evaluation.metrics.0=kid: 'metrics' is not a section"),
        ("training={num_images: 10}", "--set training={num_images: 10}: training.batch_size must be at most"),
        ("network.name.x=3", "FILE:4: network.name must be a word, got the mapping {name, x}."),
        ("evaluation.every_images=1e6", "--set evaluation.every_images=1e6: evaluation.every_images must be at most"),
        ("frobnicate=1", "--set frobnicate=1: FILE has no key 'frobnicate'."),
    ],
)
def test_a_mistake_in_an_override_names_the_override(message, assignment, expected):
    text = HEAD + "seed: 0\nnetwork: {name: mlp}\nevaluation: {metrics: [fid]}\n"
    assert message(text, [assignment]).startswith(expected)


# Fingerprints -----------------------------------------------------------------------------------------------------

RICH = {
    "digits": {"name": "x", "data": "digits"},
    "rich": {
        "name": "x",
        "seed": 3,
        "data": "digits",
        "network": {"name": "mlp", "dropout": 0.1},
        "process": "bridge",
        "timesteps": "exponential",
        "coupling": {"mu_end": 0.25},
        "distance": "l1",
        "optimizer": "adamw",
        "ema": "constant",
        "evaluation": {"sampler": "multistep", "metrics": ["kid", "fid"]},
    },
    "points": {"name": "x", "data": "gaussians_1m2m", "network": "mlp", "levels": "uniform", "weighting": "uniform"},
}


WORDS = {
    word
    for owner in [Training, *(registries[kind][name] for kind in registries for name in registries[kind])]
    for hint in typing.get_type_hints(owner).values()
    if typing.get_origin(hint) is typing.Literal
    for word in typing.get_args(hint)
}
"""Words that some field takes."""


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def others(value, path):
    """Values worth trying in the place of `value`."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, max(1, value // 2)]
    if isinstance(value, float):
        return [value * 0.9, value + 0.25]
    if value is None:
        return [0.75, 3, "a_word"]
    if value == []:
        return [["constant"], [1.0]]
    if isinstance(value, list):
        return [[item * 0.9 for item in value], [*value, value[-1]]]
    return ["other"] if path == ("name",) else [] if path[-1] == "name" else sorted(WORDS)


def replaced(data, path, value):
    head, *rest = path
    if isinstance(data, list):
        return [replaced(item, rest, value) if index == head else item for index, item in enumerate(data)]
    return {
        key: (replaced(item, rest, value) if rest else value) if key == head else item for key, item in data.items()
    }


def legal_change(data, path, value):
    for other in others(value, path):
        if other == value:
            continue
        try:
            return Experiment.from_dict(replaced(data, path, other))
        except ConfigError:
            continue
    return None


@pytest.mark.parametrize("base", RICH.values(), ids=RICH)
def test_every_single_value_of_a_recipe_changes_its_fingerprint(base):
    experiment = Experiment.from_dict(base)
    data = experiment.to_dict()
    seen, untouched = {experiment.fingerprint}, []
    for path, value in leaves(data):
        changed = legal_change(data, path, value)
        if path == ("name",):
            assert changed is not None
            assert changed.fingerprint == experiment.fingerprint
        elif changed is None:
            untouched.append((path, value))
        else:
            assert changed.fingerprint not in seen, path
            seen.add(changed.fingerprint)
            assert (changed.recipe_fingerprint == experiment.recipe_fingerprint) == (path == ("seed",)), path
    # What has no other legal value here: names of components, settings with one choice, what is off by default.
    odd = [path for path, value in untouched if value not in (None, [])]
    assert all(path[-1] in ("name", "num_workers", "extractor") for path in odd), odd
    assert len(untouched) < 30


@pytest.mark.parametrize(
    "kind", ["network", "process", "timesteps", "levels", "weighting", "coupling", "distance", "optimizer", "ema"]
)
def test_every_component_of_a_kind_has_a_fingerprint_of_its_own(kind):
    experiments = [Experiment.from_dict({"name": "x", "data": "digits", kind: name}) for name in registries[kind]]
    assert len({experiment.fingerprint for experiment in experiments}) == len(registries[kind]) > 1
    assert len({experiment.recipe_fingerprint for experiment in experiments}) == len(registries[kind])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("distance: {name: l2}", "distance: l2"),
        ("process: {sigma_data: 1}", "process: {sigma_data: 1.0}"),
        ("training: {num_images: 512_000}", "training: {num_images: 512000.0}"),
        ("training: {num_images: 5.12e5}", "training:\n  num_images: 512000"),
        ("optimizer: {lr: 1e-4, weight_decay: 0}", "optimizer: {weight_decay: 0.0, lr: 0.0001, name: lion}"),
        ("coupling: {mu_end: 1}", "coupling: {mu_end: 1.0, mu: 0.5}"),
        ("seed: 0\nnetwork: unet", "network: {}\nseed: 0"),
        ("optimizer: {betas: [0, 0]}", "optimizer: {betas: [0.0, 0.0]}"),
        ("evaluation: {metrics: fid}", "evaluation: {metrics: [{name: fid}]}"),
        ("optimizer: {weight_decay: -0.0}", "optimizer: {weight_decay: 0}"),
        ("", "training: {batch_size: 128}"),
    ],
)
def test_fingerprints_do_not_depend_on_the_spelling(load, first, second):
    one, two = load(f"{HEAD}{first}\n"), load(f"data: {{name: digits}}\n{second}\nname: another\n")
    assert one.fingerprint == two.fingerprint
    assert one.recipe_fingerprint == two.recipe_fingerprint
    assert dataclasses.replace(two, name="x") == one


def test_a_fingerprint_is_the_hash_of_the_canonical_configuration_without_its_name():
    experiment = Experiment.from_dict(RICH["rich"])
    data = experiment.to_dict()
    del data["name"]
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    assert experiment.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()
    del data["seed"]
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    assert experiment.recipe_fingerprint == hashlib.sha256(canonical.encode()).hexdigest()


# Back to data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", RICH.values(), ids=RICH)
def test_an_experiment_survives_plain_data_and_yaml(base, tmp_path):
    experiment = Experiment.from_dict(base)
    assert Experiment.from_dict(experiment.to_dict()) == experiment
    path = tmp_path / "written.yaml"
    path.write_text(dump_yaml(experiment.to_dict()), encoding="utf-8")
    assert read_document(path).data == experiment.to_dict()
    assert load_experiment(path) == experiment
    assert load_experiment(path).fingerprint == experiment.fingerprint


def test_plain_data_of_an_experiment_writes_out_every_default():
    data = Experiment.from_dict(RICH["digits"]).to_dict()
    assert set(data) == {field.name for field in dataclasses.fields(Experiment)}
    assert data["coupling"] == spec(Generator())
    assert data["evaluation"]["sampler"] == {"name": "one_step"}
    assert data["evaluation"]["metrics"][0] == {"name": "fid"}


@pytest.mark.parametrize(
    ("horizon", "every", "rungs"),
    [
        (100, 100, (100,)),
        (100, 25, (25, 50, 75, 100)),
        (100, 30, (30, 60, 90, 100)),
        (101, 25, (25, 50, 75, 100, 101)),
        (100, 99, (99, 100)),
    ],
)
def test_rungs_are_the_multiples_of_the_interval_and_the_horizon(horizon, every, rungs):
    experiment = Experiment.from_dict(
        {
            "name": "x",
            "data": "digits",
            "training": {"num_images": horizon, "batch_size": 10},
            "evaluation": {"every_images": every},
        }
    )
    assert experiment.rungs == rungs


@pytest.mark.parametrize(("images", "batch", "steps"), [(100, 10, 10), (101, 10, 11), (99, 10, 10), (7, 7, 1)])
def test_steps_cover_the_horizon(images, batch, steps):
    experiment = Experiment.from_dict(
        {
            "name": "x",
            "data": "digits",
            "training": {"num_images": images, "batch_size": batch},
            "evaluation": {"every_images": 7},
        }
    )
    assert experiment.training.num_steps == steps


def test_the_recipe_holds_the_chosen_components():
    experiment = Experiment.from_dict(RICH["rich"])
    recipe = experiment.recipe
    for field in dataclasses.fields(recipe):
        assert getattr(recipe, field.name) is getattr(experiment, field.name)
    assert isinstance(recipe.timesteps, Exponential)


def test_the_automatic_extractor_follows_the_data():
    assert Experiment.from_dict(RICH["digits"]).extractor.name == "digits"
    assert Experiment.from_dict(RICH["points"]).extractor.name == "coordinates"
    assert Experiment.from_dict(RICH["points"]).evaluation.sampler == OneStep()


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
