"""Experiments as plain data: their fingerprints, the way there and back, and what follows from them."""

import dataclasses
import hashlib
import json
import typing

import pytest

from gcsearch.config import Experiment, load_experiment, read_document
from gcsearch.config.documents import dump_yaml
from gcsearch.config.sections import Training
from gcsearch.errors import ConfigError
from gcsearch.registry import registries, spec
from gcsearch.science.couplings import Generator
from gcsearch.science.samplers import OneStep
from gcsearch.science.schedules import Exponential

HEAD = "name: x\ndata: digits\n"


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
        if path in (("name",), ("training", "num_workers")):
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
    assert all(path[-1] in ("name", "extractor") for path in odd), odd
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


def test_a_fingerprint_is_the_hash_of_the_canonical_configuration_without_name_and_workers():
    experiment = Experiment.from_dict(RICH["rich"])
    data = experiment.to_dict()
    del data["name"], data["training"]["num_workers"]
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
