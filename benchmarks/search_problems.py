"""Problems of `search_engine.py`: a space, a score after some images, and the best there is. Lower is better."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from lcdb_problem import lcdb
from numpy.typing import NDArray
from problem import Params, Problem, noisy

TABLE = Path(__file__).parent / "data" / "digits_curves.json"

NUM_NEAREST = 5
"""Recorded recipes that a score of the problem `digits` is interpolated between."""

ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
A3 = np.array([[3.0, 10, 30], [0.1, 10, 35], [3.0, 10, 30], [0.1, 10, 35]])
P3 = 1e-4 * np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]])
A6 = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
P6 = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(scales: NDArray[Any], centers: NDArray[Any], best: float) -> Problem:
    """Hartmann's function whose weights are off by 0.1 per missing share of the training, with noise.

    Source: Kandasamy et al. 2017 (arXiv:1703.06240), appendix, for the bias.
    """

    def score(params: Params, images: int) -> float:
        x = np.array([params[f"x{index}"] for index in range(centers.shape[1])])
        weights = ALPHA - 0.1 * (1 - images / 81)
        return -float(weights @ np.exp(-(scales * (x - centers) ** 2).sum(axis=1)))

    space = {f"x{index}": {"min": 0.0, "max": 1.0} for index in range(centers.shape[1])}
    return Problem(space=space, horizon=81, min_images=3, best=best, observe=noisy(score, 0.02), score=score)


def crossing() -> Problem:
    """Power laws with an asymptote and a speed of their own: what is good in the end is slow in the beginning."""
    space = {
        "lr": {"min": 1e-5, "max": 1e-1, "scale": "log"},
        "width": {"min": 16, "max": 512, "scale": "log"},
        "optimizer": {
            "values": [
                {"name": "sgd", "momentum": {"min": 0.0, "max": 1.0}},
                {"name": "adam", "beta": {"min": 0.0, "max": 1.0}},
                {"name": "lion", "decay": {"min": 0.0, "max": 1.0}},
            ]
        },
        "activation": {"values": ["relu", "silu", "tanh"]},
    }
    ideal = {"sgd": (-2.0, 0.9, 0.05), "adam": (-3.0, 0.4, 0.02), "lion": (-3.8, 0.7, 0.0)}

    def score(params: Params, images: int) -> float:
        lr, inner, offset = ideal[params["optimizer"]]
        value = next(params[key] for key in params if key.startswith("optimizer."))
        width = math.log(params["width"] / 16) / math.log(32)
        miss = abs(math.log10(params["lr"]) - lr)
        asymptote = 0.1 + offset + 0.08 * miss**2 + 0.3 * (value - inner) ** 2 + 0.15 * (1 - width)
        asymptote += {"relu": 0.03, "silu": 0.0, "tanh": 0.06}[params["activation"]]
        speed = 1.1 - 0.6 * width - 0.1 * min(miss, 2)
        return asymptote + images**-speed

    best = 0.1 + 81**-0.5
    return Problem(space=space, horizon=81, min_images=3, best=best, observe=noisy(score, 0.01), score=score)


def late_winner() -> Problem:
    """An exponential curriculum looks bad until its last doubling and wins then."""
    space = {
        "timesteps": {
            "values": [
                {"name": "fixed", "num_levels": {"min": 10, "max": 80, "scale": "log"}},
                {"name": "exponential", "s1": {"min": 20, "max": 1280, "scale": "log"}},
            ]
        },
        "mu": {"min": 0.0, "max": 1.0},
        "lr": {"min": 1e-5, "max": 1e-2, "scale": "log"},
    }

    def score(params: Params, images: int) -> float:
        share = images / 81
        common = 2 * (params["mu"] - 0.4) ** 2 + 0.3 * (math.log10(params["lr"]) + 3.3) ** 2
        if params["timesteps"] == "fixed":
            return 1.0 + common + 0.2 * math.log2(params["timesteps.num_levels"] / 28) ** 2 + math.exp(-6 * share)
        late = 1 / (1 + math.exp(14 * (share - 0.6)))
        return 0.6 + common + 0.1 * math.log2(params["timesteps.s1"] / 320) ** 2 + 3 * late

    best = 0.6 + 3 / (1 + math.exp(14 * 0.4))
    return Problem(space=space, horizon=81, min_images=3, best=best, observe=noisy(score, 0.02), score=score)


def digits() -> Problem:
    """Curves of our own trainer on the digits: logarithm of FID, interpolated between recorded recipes.

    Weights are one over the squared distance to each of the nearest recipes. Taking the nearest recipe alone makes
    plateaus, on which different trials have the same score at every rung; trainings have no such thing. Recipes that
    diverged are left out.
    """
    table = json.loads(TABLE.read_text())
    rungs = table["rungs"]
    recipes = [recipe for recipe in table["recipes"] if None not in recipe["fid"]]
    curves = np.log([recipe["fid"] for recipe in recipes])

    @lru_cache(maxsize=100_000)
    def curve(key: str) -> NDArray[Any]:
        params = json.loads(key)
        distances = np.array([_distance(params, recipe["params"]) for recipe in recipes])
        nearest = np.argsort(distances, kind="stable")[:NUM_NEAREST]
        weights = 1 / np.maximum(distances[nearest], 1e-6) ** 2
        return np.asarray(weights @ curves[nearest] / weights.sum())

    def score(params: Params, images: int) -> float:
        return float(curve(json.dumps(params))[rungs.index(images)])

    best = float(curves[:, -1].min())
    return Problem(
        space=table["space"], horizon=rungs[-1], min_images=rungs[0], best=best, observe=noisy(score), score=score
    )


def _distance(left: Params, right: Params) -> float:
    """Different options count 1, numbers their difference on [0, 1] or per factor of 100."""
    total = 0.0
    for key in left.keys() | right.keys():
        a, b = left.get(key), right.get(key)
        if isinstance(a, float) and isinstance(b, float):
            total += abs(math.log(a / b) / math.log(100)) if key.endswith("lr") else abs(a - b)
        elif a != b:
            total += 0.5 if None in (a, b) or isinstance(a, int) else 1.0
    return total


def _field(random: np.random.Generator) -> Callable[[NDArray[Any]], Any]:
    """A smooth random function on the unit cube of four dimensions, of mean 0 and variance 1.

    A sum of 200 random cosines whose covariance is a Gaussian of length 0.35.
    """
    frequencies, phases = random.standard_normal((200, 4)) / 0.35, random.uniform(0, 2 * np.pi, 200)
    amplitudes = random.standard_normal(200) * math.sqrt(2 / 200)
    return lambda x: np.cos(x @ frequencies.T + phases) @ amplitudes


FIELD_SPACE = {f"x{index}": {"min": 0.0, "max": 1.0} for index in range(3)} | {"kind": {"values": ["a", "b", "c"]}}
KIND_PLACES = {"a": 0.1, "b": 0.5, "c": 0.9}


def _from_fields(score: Callable[[NDArray[Any], int], Any], random: np.random.Generator) -> Problem:
    """A problem of three numbers and a choice from a score at (..., 4) places of the cube."""

    def at(params: Params, images: int) -> float:
        return float(score(np.array([params["x0"], params["x1"], params["x2"], KIND_PLACES[params["kind"]]]), images))

    points = random.uniform(size=(100_000, 4))
    points[:, 3] = random.choice(list(KIND_PLACES.values()), len(points))
    best = float(score(points, 81).min())
    return Problem(space=FIELD_SPACE, horizon=81, min_images=3, best=best, observe=noisy(at, 0.03), score=at)


def random_field(seed: int, misleading: float) -> Problem:
    """A smooth random function; early scores add another one, times `misleading`, that fades."""
    random = np.random.default_rng(seed)
    final, passing = _field(random), _field(random)

    def score(x: NDArray[Any], images: int) -> Any:
        return final(x) + misleading * passing(x) * (1 - images / 81) + 2 * math.exp(-images / 20)

    return _from_fields(score, random)


def random_curves(seed: int) -> Problem:
    """Power laws whose asymptote, speed and beginning are smooth random functions of the parameters."""
    random = np.random.default_rng(seed)
    asymptote, speed, begin = _field(random), _field(random), _field(random)

    def score(x: NDArray[Any], images: int) -> Any:
        return 0.5 * asymptote(x) + 4 * np.exp(0.3 * begin(x)) * images ** -(0.5 * np.exp(0.4 * speed(x)))

    return _from_fields(score, random)


HELD_OUT: dict[str, Callable[[int], Problem]] = {
    f"random_field_{misleading:g}": partial(random_field, misleading=misleading) for misleading in (0.3, 1.0, 2.0, 4.0)
} | {"random_curves": random_curves}
"""Problems on which nothing was chosen, another function for each seed; the name says how much early scores mislead."""

PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "hartmann3": lambda seed: hartmann(A3, P3, -3.86278),
    "hartmann6": lambda seed: hartmann(A6, P6, -3.32237),
    "crossing": lambda seed: crossing(),
    "late_winner": lambda seed: late_winner(),
    "digits": lambda seed: digits(),
    "lcdb": lcdb,
}
