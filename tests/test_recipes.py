"""The papers' recipes: what siblings may differ in, the size of the networks, the numbers they are meant to reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcsearch.config import load_experiment
from gcsearch.science.networks.base import initialize

EXPERIMENTS = Path(__file__).parent.parent / "experiments"

ARMS = {"": "generator", "_ic": "independent", "_ot": "ot"}

PARAMETERS_MILLIONS = {
    "cifar10": 34.71,
    "cifar10_v1": 34.71,
    "imagenet32": 39.48,
    "imagenet32_v1": 40.38,
    "celeba64": 59.58,
    "celeba64_v1": 58.68,
    "lsun_church64": 59.58,
    "gaussians_1m2m": 0.198402,
    "gaussians_2m2m": 0.198402,
}
"""Counted on the published code's networks."""

FID = {
    "cifar10": ("5.95", "7.42", "6.75"),
    "imagenet32": ("13.99", "14.89", "14.13"),
    "celeba64": ("11.74", "15.82", "13.63"),
    "lsun_church64": ("9.88", "10.58", "9.71"),
}
"""GC (ICML) Table 1: generated, independent, optimal transport."""

NUM_STEPS = {"cifar10": 100_000, "imagenet32": 150_000, "celeba64": 150_000, "lsun_church64": 150_000}


def siblings():
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        for suffix in ("_ic", "_ot"):
            if path.stem.endswith(suffix):
                yield pytest.param(path.stem, path.stem.removesuffix(suffix), id=path.stem)


def flat(mapping, prefix=""):
    return {
        key: value
        for name, part in mapping.items()
        for key, value in (
            flat(part, f"{prefix}{name}.") if isinstance(part, dict) else {f"{prefix}{name}": part}
        ).items()
    }


@pytest.mark.parametrize(("name", "base"), list(siblings()))
def test_sibling_differs_in_coupling_and_dropout_only(name, base):
    ours, theirs = (flat(load_experiment(EXPERIMENTS / f"{stem}.yaml").to_dict()) for stem in (name, base))
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert {key.split(".")[0] for key in differing} <= {"name", "coupling", "network"}
    assert {key for key in differing if key.startswith("network.")} <= {"network.dropout"}
    assert ours["coupling.name"] == ARMS[name.removeprefix(base)]
    assert theirs["coupling.name"] == "generator"


@pytest.mark.parametrize(("name", "millions"), PARAMETERS_MILLIONS.items())
def test_network_has_the_published_number_of_parameters(name, millions):
    experiment = load_experiment(EXPERIMENTS / f"{name}.yaml")
    module = initialize(experiment.network, experiment.data.event_shape, 0)
    count = sum(weight.numel() for weight in module.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("name", "targets"), FID.items())
def test_recipe_names_the_number_it_is_meant_to_reach(name, targets):
    for suffix, target in zip(ARMS, targets, strict=True):
        comment = (EXPERIMENTS / f"{name}{suffix}.yaml").read_text().split("\nname:")[0]
        assert f"FID of {target} +-" in comment.replace("\n# ", " ")


@pytest.mark.parametrize(("name", "num_steps"), NUM_STEPS.items())
def test_recipe_trains_as_long_as_published(name, num_steps):
    assert load_experiment(EXPERIMENTS / f"{name}.yaml").training.num_steps == num_steps


@pytest.mark.parametrize("name", ["cifar10", "imagenet32", "celeba64"])
def test_versions_of_the_paper_differ_where_they_should(name):
    icml, first = (load_experiment(EXPERIMENTS / f"{stem}.yaml") for stem in (name, f"{name}_v1"))
    assert (icml.process.name, first.process.name) == ("ve", "bridge")
    dropout = icml.to_dict()["network"]["dropout"]
    assert (max(dropout) if isinstance(dropout, list) else dropout) == 0
    assert (
        first.to_dict()["network"]["dropout"]
        == load_experiment(EXPERIMENTS / f"{name}_v1_ic.yaml").to_dict()["network"]["dropout"]
    )
