"""What the tests of samplers share: a space of every sort, histories, and a search that trains nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gcsearch.config import Document
from gcsearch.tuning.samplers import History, RandomChooser, drawn_from, search_samplers
from gcsearch.tuning.samplers.base import Observation
from gcsearch.tuning.space import Choice, parameter_key
from gcsearch.tuning.space_parser import parse_space

RUNGS = (100, 300, 900)
BASE = Document({"tree": {}})
SPACE = {
    "x": {"min": 0.0, "max": 1.0},
    "lr": {"min": 1e-5, "max": 1e-1, "scale": "log"},
    "width": {"min": 1, "max": 64, "scale": "log"},
    "tree.kind": {
        "values": [
            {"name": "a", "depth": {"min": 1, "max": 5}},
            {"name": "b", "rate": {"min": 0.0, "max": 1.0}, "flag": {"values": [True, False, None]}},
            "c",
        ]
    },
}


def space_of(spec):
    """A space as in a study file."""
    return parse_space(spec, Document({"space": spec}))


TREE = space_of(SPACE)
NUMBERS = space_of({key: SPACE[key] for key in ("x", "lr", "width")})
LINE = space_of({"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0}})


def history_of(observations, seed=0, number=0, space=TREE, rungs=RUNGS, **fields):
    """What a sampler is asked with."""
    known = {"space": space, "rungs": rungs, "seed": seed, "number": number}
    return History(base=BASE, observations=observations, **known, **fields)


def suggest(sampler, observations, seed, number, space=TREE, rungs=RUNGS, **fields):
    """Parameters that a sampler suggests."""
    return space.draw(sampler.chooser(history_of(observations, seed, number, space, rungs, **fields)), BASE)[0]


def suggested(name, observations, seed, number, num_objectives=1):
    """The same by name, in the space that this sampler takes."""
    sampler = search_samplers[name]()
    return suggest(sampler, observations, seed, number, space_for(name), num_objectives=num_objectives)


def observe(params, scores, is_running=False, space=TREE):
    return Observation(drawn=drawn_from(space, BASE, params), scores=scores, is_running=is_running)


def history(seed, count, space=TREE, rungs=RUNGS, num_objectives=1):
    """Trials of every sort: running, stopped at any rung, diverged at any rung, failed without a score."""
    random = np.random.default_rng(seed)
    observations = []
    for number in range(count):
        params, _ = space.draw(RandomChooser(seed, number), BASE)
        reached = int(random.integers(0, len(rungs) + 1))
        losses = {rung: tuple(random.normal(size=num_objectives).tolist()) for rung in rungs[:reached]}
        if random.random() < 0.2:
            losses |= dict.fromkeys(rungs[reached:], (math.inf,) * num_objectives)
        scores = {rung: sum(values) for rung, values in losses.items()}
        one = observe(params, scores, bool(random.random() < 0.3), space)
        observations.append(replace(one, losses=losses) if num_objectives > 1 else one)
    return observations


ANY_SPACE = ["auto", "grid", "nsga2", "qmc", "random", "tpe"]
"""Samplers that take a space with parameters that exist only sometimes."""

ALL = sorted([*ANY_SPACE, "cmaes", "gp"])
QUICK = [name for name in ALL if name != "gp"]
SEVERAL = [name for name in ALL if search_samplers[name].max_objectives > 1]
"""Samplers that take several objectives."""


def space_for(name):
    """A space that a sampler takes."""
    return TREE if name in ANY_SPACE else NUMBERS


def is_inside(params, space=TREE):
    """Whether parameters are of the space, with the right types."""
    for name, (_, node) in drawn_from(space, BASE, params).items():
        value = params[parameter_key(name)]
        if isinstance(node, Choice):
            assert any(option.label == value and type(option.label) is type(value) for option in node.options)
        else:
            assert node.low <= value <= node.high
            assert type(value) is (int if node.is_integer else float)
    expected = {entry.key for entry in space.entries}
    if space is TREE:
        kinds = {"a": {"tree.kind.depth"}, "b": {"tree.kind.rate", "tree.kind.flag"}, "c": set()}
        expected |= kinds[params["tree.kind"]]
    assert set(params) == expected


def of_all():
    """A few suggestions of every sampler."""
    one = [suggested(name, history(3, 60, space_for(name)), 7, n) for name in QUICK for n in range(60, 62)]
    two = [
        suggested(name, history(3, 60, space_for(name), num_objectives=2), 7, n, num_objectives=2)
        for name in SEVERAL
        for n in range(60, 62)
    ]
    return [*one, *two]


def search(sampler, evaluate, seed, trials, space=LINE):
    observations, scores, drawn = [], [], []
    for number in range(trials):
        params = suggest(sampler, observations, seed, number, space)
        score = evaluate(params)
        observations.append(observe(params, dict.fromkeys(RUNGS, score), space=space))
        scores.append(score)
        drawn.append(params)
    return scores, drawn


def bowl(params):
    return (params["x"] - 0.3) ** 2 + (params["y"] - 0.8) ** 2
