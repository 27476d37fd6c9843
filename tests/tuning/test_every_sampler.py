"""What holds for every sampler: a pure function of what is known, inside the space, in any process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from gcsearch.errors import ConfigError
from gcsearch.tuning.replay import METRIC, make_engine, simulate
from gcsearch.tuning.samplers import History, search_samplers
from gcsearch.tuning.samplers.evolution import CMAESSampler, NSGA2Sampler
from gcsearch.tuning.samplers.from_optuna import standings
from gcsearch.tuning.samplers.plain import RandomSampler

from . import sampling
from .sampling import (
    ALL,
    BASE,
    LINE,
    QUICK,
    RUNGS,
    SEVERAL,
    bowl,
    history,
    is_inside,
    observe,
    of_all,
    search,
    space_for,
    space_of,
    suggest,
    suggested,
)


def test_every_sampler_is_tested():
    assert list(search_samplers) == ALL


@pytest.mark.parametrize("name", QUICK)
def test_the_same_history_seed_and_number_give_the_same_suggestion(name):
    for seed in range(3):
        observations = history(seed, 40, space_for(name))
        first = [suggested(name, observations, seed, number) for number in range(40, 43)]
        assert first == [suggested(name, observations, seed, number) for number in range(40, 43)]


@pytest.mark.parametrize("name", [name for name in QUICK if name != "grid"])
def test_different_numbers_and_different_seeds_give_different_suggestions(name):
    observations = history(1, 40, space_for(name))
    numbers = [suggested(name, observations, 0, number) for number in range(40, 80)]
    seeds = [suggested(name, observations, seed, 40) for seed in range(40)]
    few = 30 if name == "nsga2" else 38  # a child may have its parent's value
    for found in (numbers, seeds):
        assert len({tuple(sorted(one.items())) for one in found}) == 40
        assert len({one["x"] for one in found}) >= few


SCRIPT = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("there", sys.argv[1])
there = importlib.util.module_from_spec(spec)
spec.loader.exec_module(there)
print(json.dumps(there.of_all()))
"""


def test_another_process_suggests_the_same():
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", SCRIPT, sampling.__file__]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=True)
    assert json.loads(done.stdout) == of_all()


OPTIONS = {
    "auto": {"random_share": 0.0, "min_observations": 2},
    "tpe": {"startup_trials": 1},
    "gp": {"startup_trials": 1},
    "nsga2": {"population": 4},
}
SLOW = {"tpe": 40, "gp": 4, "nsga2": 60}


@pytest.mark.parametrize("name", ALL)
def test_suggestions_lie_inside_the_space_for_random_histories(name):
    sampler, space = search_samplers[name](**OPTIONS.get(name, {})), space_for(name)
    for seed in range(SLOW.get(name, 150)):
        is_inside(suggest(sampler, history(seed, seed % 25, space), seed, seed % 25, space), space)


@pytest.mark.parametrize("name", SEVERAL)
def test_suggestions_for_two_objectives_lie_inside_the_space_too(name):
    sampler = search_samplers[name](**OPTIONS.get(name, {}))
    for seed in range(12):
        observations = history(seed, 2 * seed, num_objectives=2)
        is_inside(suggest(sampler, observations, seed, 2 * seed, num_objectives=2))


@pytest.mark.parametrize("name", ["gp", "cmaes"])
def test_a_sampler_of_one_objective_says_which_takes_more(name):
    with pytest.raises(ConfigError, match=f"sampler {name} takes one objective, got 2. Use auto or nsga2"):
        make_engine(
            {"x": {"min": 0.0, "max": 1.0}}, {"sampler": name}, "none", goal=["minimize"] * 2, horizon_images=1, seed=0
        )


def test_standings_put_whoever_went_further_first_and_compare_at_one_rung_only():
    diverged = {100: 0.5} | dict.fromkeys(RUNGS[1:], math.inf)
    scores = [{100: 9.0, 300: 9.0}, {100: 1.0}, {100: 2.0}, {100: 0.0, 300: 8.0}, {}, {100: 5.0}, diverged]
    observations = [observe({"x": 0.5, "y": 0.5}, one, number == 5, LINE) for number, one in enumerate(scores)]
    known = History(space=LINE, base=BASE, observations=observations, rungs=RUNGS, seed=0, number=7)
    assert standings(known) == [(8.0,), (14.0,), (15.0,), (7.0,), None, None, (28.0,)]


@pytest.mark.parametrize("sampler", [NSGA2Sampler(), CMAESSampler()])
def test_evolution_beats_random_trials_on_a_quadratic(sampler):
    found = [np.mean(search(sampler, bowl, seed, 48)[0][24:]) for seed in range(4)]
    random = [np.mean(search(RandomSampler(), bowl, seed, 48)[0][24:]) for seed in range(4)]
    assert np.mean(found) < 0.7 * np.mean(random)


def best_of(sampler, seed, two):
    """Least sum of the distances between a few points of the front and the trials, over 72 trials."""
    goal = ["minimize", "minimize"]
    space = {key: {"min": 0.0, "max": 1.0} for key in "xyz"}
    ledger = simulate(
        space,
        {"sampler": sampler},
        "none",
        two,
        goal=goal,
        horizon_images=1,
        budget_images=72,
        num_workers=4,
        seed=seed,
    )
    points = np.array([list(one.results[-1].metrics.values()) for one in ledger.trials.values()])
    front = np.array([[at**2, (1 - at) ** 2] for at in np.linspace(0, 1, 9)])
    return np.min(np.linalg.norm(points[:, None] - front, axis=2), axis=0).sum()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_samplers_of_several_objectives_come_nearer_to_the_front_than_random_trials(sampler):
    def two(params, images):
        off = 2 * ((params["y"] - 0.3) ** 2 + (params["z"] - 0.7) ** 2)
        return (params["x"] ** 2 + off, (1 - params["x"]) ** 2 + off)

    found, random = ([best_of(name, seed, two) for seed in range(8)] for name in (sampler, "random"))
    assert np.mean(found) < 0.9 * np.mean(random)


def test_the_first_generation_is_random_and_a_child_has_what_its_parents_have():
    """Parents agree in every option, of 50: a child has it in two of three keys, chance would have it in one of 50."""
    drawn = [suggest(NSGA2Sampler(), [], 0, number) for number in range(8)]
    assert drawn == [suggest(RandomSampler(), [], 0, number) for number in range(8)]
    space = space_of({key: {"values": list(range(50))} for key in "abc"})
    parents = [observe(dict.fromkeys("abc", 7), {900: float(number)}, space=space) for number in range(8)]
    children = [suggest(NSGA2Sampler(), parents, seed, 8, space) for seed in range(30)]
    assert 0.5 < np.mean([value == 7 for child in children for value in child.values()]) < 0.85


def test_cmaes_begins_at_the_first_given_trial():
    def drawn(given):
        search = {"sampler": {"name": "cmaes", "sigma": 0.01}, "start_from": given}
        ledger = simulate(
            {"x": {"min": 0.0, "max": 10.0}, "y": {"min": 1e-4, "max": 1.0, "scale": "log"}},
            search,
            "none",
            lambda params, images: 0.0,
            goal="minimize",
            horizon_images=1,
            budget_images=8,
            num_workers=1,
            seed=0,
        )
        return list(ledger.trials.values())[len(given) :]

    assert all(abs(one.params["x"] - 5) < 0.5 for one in drawn([]))
    assert all(abs(one.params["x"] - 9) < 0.5 and one.params["y"] > 0.5 for one in drawn([{"x": 9.0, "y": 1.0}]))


def test_cmaes_learns_from_whole_generations_only():
    """What follows a trial that still runs changes nothing yet; once it has ended, everything counts."""
    params = [suggest(CMAESSampler(), [], 0, number, LINE) for number in range(12)]

    def after(running, change):
        known = [
            observe(one, {900: bowl(one) + (change if number == 9 else 0)}, number == running, LINE)
            for number, one in enumerate(params)
        ]
        return suggest(CMAESSampler(population=6), known, 0, 12, LINE)

    assert after(running=3, change=-9) == after(running=3, change=9)
    assert after(running=None, change=-9) != after(running=None, change=9)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            {"x": {"min": 0, "max": 9}, "kind": {"values": ["a", "b"]}},
            "searches numbers only, and kind is one of several",
        ),
        (
            {"kind": {"values": [{"name": "a", "rate": {"min": 0.0, "max": 1.0}}, "b"]}},
            "searches numbers only, and kind",
        ),
    ],
)
def test_cmaes_says_what_it_cannot_search(space, words):
    with pytest.raises(ConfigError, match=f"{words}.*Use auto"):
        make_engine(space, {"sampler": "cmaes"}, "none", goal="minimize", horizon_images=1, seed=0)


@pytest.mark.parametrize("sampler", ["nsga2", "cmaes"])
def test_a_simulated_study_goes_on_from_anywhere_with_the_same_suggestions(sampler):
    def play(events=()):
        return simulate(
            {key: {"min": 0.0, "max": 1.0} for key in "xy"},
            {"sampler": {"name": sampler, "population": 5}},
            {"name": "asha", "min_images": 100},
            lambda params, images: bowl(params) + 10 / images if params["x"] < 0.9 else math.nan,
            goal="minimize",
            horizon_images=900,
            budget_images=9_000,
            num_workers=3,
            seed=1,
            events=events,
        )

    whole = play()
    assert min(record.value(METRIC) or 9.0 for record in whole.trials.values()) < 0.1
    for cut in range(0, len(whole.events), 41):
        assert play(whole.events[:cut]).events == whole.events


@pytest.mark.parametrize(
    ("kind", "bad"),
    [(NSGA2Sampler, {"population": 1}), (CMAESSampler, {"population": 3}), (CMAESSampler, {"sigma": 0.0})],
)
def test_meaningless_settings_are_refused(kind, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        kind(**bad)
