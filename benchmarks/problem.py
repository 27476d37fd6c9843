"""What a problem of `search_engine.py` is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Params = dict[str, Any]
Evaluate = Callable[[Params, int], float]
"""Score of parameters after some images; lower is better."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem.

    Attributes:
        space: As in a study file.
        horizon: Images of a full training.
        min_images: First rung.
        best: Lowest true score at the horizon.
        score: The true score.
        observe: From a seed to what a study sees of it.
    """

    space: dict[str, Any]
    horizon: int
    min_images: int
    best: float
    score: Evaluate = field(repr=False)
    observe: Callable[[int], Evaluate] = field(repr=False)


def noisy(score: Evaluate, noise: float = 0.0) -> Callable[[int], Evaluate]:
    """Normal noise of some standard deviation, another one at every rung."""

    def observe(seed: int) -> Evaluate:
        def evaluate(params: Params, images: int) -> float:
            return score(params, images) + noise * float(random_of(seed, images, params).standard_normal())

        return evaluate

    return observe


def random_of(seed: int, *key: Any) -> np.random.Generator:
    """A generator that is a function of the seed and the key."""
    ordered = [sorted(part.items(), key=str) if isinstance(part, dict) else part for part in key]
    return np.random.default_rng(list(json.dumps([seed, *ordered], default=str).encode()))
