"""Grid, quasi-random points, and what a space must be for the Gaussian process."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcsearch.errors import ConfigError
from gcsearch.tuning.replay import METRIC, make_engine, simulate

TREE = {
    "kind": {"values": ["a", {"name": "b", "rate": {"min": 0.0, "max": 1.0}}]},
    "lr": {"min": 1e-4, "max": 1.0, "scale": "log"},
    "depth": {"min": 1, "max": 2},
    "drop": {"values": [True, False], "when": {"kind": "a"}},
}


def run(space, sampler, **changes):
    settings = {"goal": "minimize", "horizon_images": 10, "budget_images": 1000, "num_workers": 2, "seed": 0}
    search = {"sampler": sampler, **changes.pop("search", {})}
    ledger = simulate(space, search, "none", lambda params, images: 0.0, **settings | changes)
    return [record.params for record in ledger.trials.values()]


def test_a_grid_has_every_combination_once_and_then_ends():
    drawn = run(TREE, {"name": "grid", "points": 3})
    lrs, depths = (1e-4, 1e-2, 1.0), (1, 2)
    a = {("a", None, lr, depth, drop) for lr, depth, drop in itertools.product(lrs, depths, (True, False))}
    b = {("b", rate, lr, depth, None) for rate, lr, depth in itertools.product((0.0, 0.5, 1.0), lrs, depths)}
    keys = ("kind", "kind.rate", "lr", "depth", "drop")
    found = [
        tuple(round(v, 9) if isinstance(v, float) else v for v in (params.get(key) for key in keys)) for params in drawn
    ]
    assert len(found) == len(a) + len(b) == 30
    assert set(found) == a | b


def test_a_grid_begins_after_the_given_trials():
    drawn = run(TREE, {"name": "grid", "points": 2}, search={"start_from": [{"lr": 0.5}, {"lr": 0.6}]})
    assert [params["lr"] for params in drawn[:2]] == [0.5, 0.6]
    assert drawn[2:] == run(TREE, {"name": "grid", "points": 2})


def test_quasi_random_points_fill_the_square_more_evenly_than_random_ones():
    square = {"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0}}

    def filled(sampler, seed):
        points = np.array([[p["x"], p["y"]] for p in run(square, sampler, seed=seed, budget_images=160)])
        return len({(int(4 * x), int(4 * y)) for x, y in points})

    assert all(filled("qmc", seed) == 16 for seed in range(5))
    assert all(filled("random", seed) < 16 for seed in range(5))


def test_a_gaussian_process_refuses_parameters_that_exist_only_sometimes():
    with pytest.raises(ConfigError, match=r"sampler gp needs parameters that always exist.*Use auto"):
        run(TREE, "gp")
    conditional = {"x": {"min": 0.0, "max": 1.0, "when": {"y": 1}}, "y": {"values": [1, 2]}}
    with pytest.raises(ConfigError, match="sampler gp needs"):
        make_engine(conditional, {"sampler": "gp"}, "none", goal="minimize", horizon_images=1, seed=0)


def test_a_gaussian_process_finds_the_bottom_of_a_bowl():
    space = {"x": {"min": 0.0, "max": 1.0}, "y": {"values": ["a", "b"]}}
    ledger = simulate(
        space,
        {"sampler": {"name": "gp", "startup_trials": 4}},
        "none",
        lambda params, images: (params["x"] - 0.3) ** 2 + (params["y"] == "a"),
        goal="minimize",
        horizon_images=10,
        budget_images=100,
        num_workers=1,
        seed=0,
    )
    assert min(record.value(METRIC) for record in ledger.trials.values()) < 0.01
