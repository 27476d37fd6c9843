"""Problems of `search_engine.py`: a space, a score after some images, and the best there is. Lower is better."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TABLE = Path(__file__).parent / "data" / "digits_curves.json"

NUM_NEAREST = 5
"""Recorded recipes that a score of the problem `digits` is interpolated between."""

Params = dict[str, Any]

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


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem.

    Attributes:
        space: As in a study file.
        horizon: Images of a full training.
        min_images: First rung.
        best: Lowest true score at the horizon.
        score: True score of parameters after some images.
        noise: Standard deviation of what is added to it.
    """

    space: dict[str, Any]
    horizon: int
    min_images: int
    best: float
    score: Callable[[Params, int], float] = field(repr=False)
    noise: float = 0.0

    def observe(self, seed: int) -> Callable[[Params, int], float]:
        """Noisy score: the noise is a function of seed, parameters and images."""

        def evaluate(params: Params, images: int) -> float:
            key = json.dumps([seed, images, sorted(params.items(), key=str)], default=str)
            random = np.random.default_rng(list(key.encode()))
            return self.score(params, images) + self.noise * float(random.standard_normal())

        return evaluate


def hartmann(scales: NDArray[Any], centers: NDArray[Any], best: float) -> Problem:
    """Hartmann's function whose weights are off by 0.1 per missing share of the training, with noise.

    Source: Kandasamy et al. 2017 (arXiv:1703.06240), appendix, for the bias.
    """

    def score(params: Params, images: int) -> float:
        x = np.array([params[f"x{index}"] for index in range(centers.shape[1])])
        weights = ALPHA - 0.1 * (1 - images / 81)
        return -float(weights @ np.exp(-(scales * (x - centers) ** 2).sum(axis=1)))

    space = {f"x{index}": {"min": 0.0, "max": 1.0} for index in range(centers.shape[1])}
    return Problem(space=space, horizon=81, min_images=3, best=best, score=score, noise=0.02)


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
    return Problem(space=space, horizon=81, min_images=3, best=best, score=score, noise=0.01)


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
    return Problem(space=space, horizon=81, min_images=3, best=best, score=score, noise=0.02)


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
    return Problem(space=table["space"], horizon=rungs[-1], min_images=rungs[0], best=best, score=score)


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


def random_field(seed: int, misleading: float) -> Problem:
    """A smooth random function of three numbers and a choice; early scores add another one, times `misleading`.

    Both are sums of 200 random cosines whose covariance is a Gaussian of length 0.35 on the unit cube.
    """
    random = np.random.default_rng(seed)
    places = {"a": 0.1, "b": 0.5, "c": 0.9}

    def field() -> Callable[[NDArray[Any]], Any]:
        frequencies, phases = random.standard_normal((200, 4)) / 0.35, random.uniform(0, 2 * np.pi, 200)
        amplitudes = random.standard_normal(200) * math.sqrt(2 / 200)
        return lambda x: np.cos(x @ frequencies.T + phases) @ amplitudes

    final, passing = field(), field()

    def score(params: Params, images: int) -> float:
        x = np.array([params["x0"], params["x1"], params["x2"], places[params["kind"]]])
        return float(final(x) + misleading * passing(x) * (1 - images / 81)) + 2 * math.exp(-images / 20)

    points = random.uniform(size=(100_000, 4))
    points[:, 3] = random.choice(list(places.values()), len(points))
    space = {f"x{index}": {"min": 0.0, "max": 1.0} for index in range(3)} | {"kind": {"values": list(places)}}
    best = float(final(points).min()) + 2 * math.exp(-81 / 20)
    return Problem(space=space, horizon=81, min_images=3, best=best, score=score, noise=0.03)


HELD_OUT: dict[str, Callable[[], Problem]] = {
    f"random_field_{misleading:g}": partial(random_field, seed, misleading)
    for seed, misleading in enumerate((0.3, 1.0, 2.0, 4.0))
}
"""Problems on which nothing was chosen; how much early scores mislead is in the name."""

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "hartmann3": lambda: hartmann(A3, P3, -3.86278),
    "hartmann6": lambda: hartmann(A6, P6, -3.32237),
    "crossing": crossing,
    "late_winner": late_winner,
    "digits": digits,
}
