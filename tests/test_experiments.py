"""Every shipped experiment loads, and every corner of every shipped search space builds."""

import itertools
import random
from pathlib import Path

import pytest

from gcsearch.config import Document, Experiment, load_experiment, read_document
from gcsearch.config.documents import dump_yaml
from gcsearch.errors import ConfigError
from gcsearch.science.networks.base import initialize
from gcsearch.tuning.space import FixedChooser, Range
from gcsearch.tuning.space_parser import parse_space
from gcsearch.tuning.spec import load_study

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
MAX_CORNERS = 2_000


def by_name(paths):
    return [pytest.param(path, id=path.stem) for path in paths]


def node_corners(node, name):
    """Every combination of ends and options below one node, as values of a `FixedChooser`."""
    if isinstance(node, Range):
        return [{name: node.low}, {name: node.high}]
    found = []
    for option in node.options:
        inner = [node_corners(child, f"{name}[{option.label}].{key}") for key, child in option.nodes.items()]
        found += [
            {name: option.label} | {key: value for part in parts for key, value in part.items()}
            for parts in itertools.product(*inner)
        ]
    return found


def corners(space, seed=0):
    """Every corner of a space; a seeded sample of them if there are too many."""
    choices = [node_corners(entry.node, entry.key) for entry in space.entries]
    total = 1
    for options in choices:
        total *= len(options)
    if total <= MAX_CORNERS:
        combinations = itertools.product(*choices)
    else:
        chooser = random.Random(seed)
        combinations = ([chooser.choice(options) for options in choices] for _ in range(MAX_CORNERS))
    for parts in combinations:
        yield {key: value for part in parts for key, value in part.items()}


def test_there_is_something_to_test():
    assert EXPERIMENTS
    assert SPACES


@pytest.mark.parametrize("path", by_name(EXPERIMENTS))
class TestExperiment:
    def test_loads_and_is_named_after_its_file(self, path):
        experiment = load_experiment(path)
        assert experiment.name == path.stem
        assert experiment.rungs[-1] == experiment.training.num_images
        assert len(experiment.rungs) >= 2

    def test_survives_plain_data_and_yaml(self, path, tmp_path):
        experiment = load_experiment(path)
        (tmp_path / "again.yaml").write_text(dump_yaml(experiment.to_dict()))
        assert load_experiment(tmp_path / "again.yaml") == experiment

    def test_its_network_builds_for_its_data(self, path):
        experiment = load_experiment(path)
        module = initialize(experiment.network, experiment.data.event_shape, 0)
        assert sum(weight.numel() for weight in module.parameters()) > 0


@pytest.mark.parametrize("path", by_name(SPACES))
class TestSearchSpace:
    def test_loads_and_is_named_after_its_file(self, path):
        assert load_study(path).name == path.stem

    def test_builds_at_every_corner(self, path):
        study = load_study(path)
        seen = set()
        for values in corners(study.space):
            params, document = study.space.draw(FixedChooser(values), study.base)
            experiment = Experiment.from_document(document)
            assert study.experiment_of(params) == experiment
            seen.add(experiment.fingerprint)
        assert len(seen) > 1

    def test_stays_buildable_on_every_shipped_experiment_of_images_with_generated_end_points(self, path):
        for experiment in EXPERIMENTS:
            loaded = load_experiment(experiment)
            if len(loaded.data.event_shape) == 3 and loaded.coupling.name == "generator":
                study = load_study(path, experiment=str(experiment))
                assert study.experiment == load_experiment(experiment)


# The walk over corners itself -------------------------------------------------------------------------------------

BASE = Document({"name": "x", "data": "digits", "network": "mlp"}, "base")


def space_of(**entries):
    return parse_space({key.replace("__", "."): value for key, value in entries.items()}, Document({}, "space"))


def test_corners_are_the_product_of_ends_and_options_with_their_own_parameters():
    space = space_of(
        coupling__mu={"min": 0.0, "max": 1.0},
        optimizer={
            "values": [
                {"name": "lion", "lr": {"min": 1e-5, "max": 1e-3}},
                {"name": "adam", "lr": {"values": [1, 2, 3]}},
            ]
        },
    )
    found = [Experiment.from_document(space.draw(FixedChooser(values), BASE)[1]) for values in corners(space)]
    settings = {(one.coupling.mu, one.optimizer.name, one.optimizer.lr) for one in found}
    optimizers = [("lion", 1e-5), ("lion", 1e-3), ("adam", 1.0), ("adam", 2.0), ("adam", 3.0)]
    assert settings == {(mu, *optimizer) for mu in (0.0, 1.0) for optimizer in optimizers}
    assert len(found) == 10


@pytest.mark.parametrize(
    "entries",
    [
        {"coupling__mu": {"min": 0.0, "max": 1.5}},
        {"network__width": {"values": [8, 16, 33]}},
        {"optimizer": {"values": ["lion", {"name": "adam", "lr": {"min": -1.0, "max": 1.0}}]}},
        {"timesteps": {"values": ["fixed", {"name": "exponential", "s0": {"values": [10, 3000]}}]}},
        {"process__sigma_min": {"min": 0.1, "max": 90.0}, "process__name": {"values": ["ve", "bridge"]}},
    ],
)
def test_a_corner_that_is_not_legal_is_found(entries):
    space = space_of(**entries)
    documents = [space.draw(FixedChooser(values), BASE)[1] for values in corners(space)]
    with pytest.raises(ConfigError):
        list(map(Experiment.from_document, documents))


def test_a_space_of_too_many_corners_is_sampled_the_same_way_each_time():
    names = ("seeds", "b", "c", "d", "e", "f")
    space = space_of(**{f"x__{name}": {"values": list(range(5))} for name in names})
    first, second = list(corners(space)), list(corners(space))
    assert first == second
    assert len(first) == MAX_CORNERS < 5**6
    assert all(len({values[f"x.{name}"] for values in first}) == 5 for name in names)


def test_the_digits_experiment_shows_every_section():
    path = ROOT / "experiments" / "digits.yaml"
    shown = read_document(path).data
    assert set(load_experiment(path).to_dict()) - set(shown) <= {"imports"}
    for section in ("training", "evaluation"):
        assert set(load_experiment(path).to_dict()[section]) - set(shown[section]) <= {"seed"}
