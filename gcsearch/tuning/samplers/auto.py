"""The default sampler: a Parzen estimator that knows what a rung is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gcsearch.tuning.samplers.base import (
    Drawn,
    History,
    Observation,
    RandomChooser,
    SearchSampler,
    from_unit,
    search_samplers,
    to_unit,
)
from gcsearch.tuning.space import Choice, Chooser, FixedChooser, Node, Range

Floats = NDArray[np.float64]


@search_samplers.register("auto")
@dataclass(frozen=True, kw_only=True)
class RungAwareTPE(SearchSampler):
    """Tree-structured Parzen estimator on a ranking that never compares scores of different rungs.

    Attributes:
        min_observations: Finite scores that are needed before the model is used.
        random_share: Probability that a trial is drawn at random, in [0, 1].
        good_share: Share of the trials that count as good.
        num_candidates: Draws from the good ones, of which the most promising is taken.
        local_share: ...
    """

    min_observations: int = 8
    random_share: float = 0.1
    good_share: float = 0.15
    num_candidates: int = 32
    local_share: float = 0.0
    min_width: float = 0.03
    width_scale: float = 1.0
    weight_power: float = 0.0
    mode: str = "fused"
    sqrt_good: float = 0.0
    anneal: float = 0.0

    def __post_init__(self) -> None:
        if self.min_observations < 2:
            raise ValueError(f"min_observations must be at least 2, got {self.min_observations}")
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"random_share must be in [0, 1], got {self.random_share}")

    def chooser(self, history: History) -> Chooser:
        random = history.generator(1)
        if self.mode == "fused":
            ranked = ranking(history.observations, history.rungs)
        else:
            ranked = bohb(history.observations, history.rungs, self.min_observations)
        num_finite = sum(any(map(math.isfinite, one.scores.values())) for one in history.observations)
        share = max(self.random_share, self.anneal / (self.anneal + num_finite)) if self.anneal else self.random_share
        if num_finite < self.min_observations or not ranked or random.random() < share:
            return RandomChooser(history.seed, history.number)
        running = [one.drawn for one in history.observations if one.is_running and not one.scores]
        finite = [one for one in ranked if any(map(math.isfinite, one.scores.values()))]
        ng = self.sqrt_good * math.sqrt(len(ranked)) if self.sqrt_good else self.good_share * len(ranked)
        num_good = max(2, min(len(finite), math.ceil(ng)))
        w = np.arange(num_good, 0, -1.0) ** self.weight_power
        good = Parzen([one.drawn for one in ranked[:num_good]], self.min_width, self.width_scale, w)
        bad = Parzen([one.drawn for one in ranked[num_good:]] + running, self.min_width, self.width_scale)
        if random.random() < self.local_share:
            good = Parzen([ranked[min(int(random.exponential(1.0)), num_good - 1)].drawn], 0.05, 0.0, None, prior=0.0)
            return FixedChooser({name: value for name, (value, _) in history.draw(good.sampler(random)).items()})
        candidates = [history.draw(good.sampler(random)) for _ in range(self.num_candidates)]
        gain = good.log_density(candidates) - bad.log_density(candidates)
        best = candidates[int(np.argmax(gain))]
        return FixedChooser({name: value for name, (value, _) in best.items()})


def bohb(observations, rungs, least):
    for rung in sorted(rungs, reverse=True):
        have = [o for o in observations if rung in o.scores]
        if sum(math.isfinite(o.scores[rung]) for o in have) >= least:
            return sorted(have, key=lambda o: o.scores[rung])
    return []


def ranking(observations: Sequence[Observation], rungs: Sequence[int]) -> list[Observation]:
    """Observations with a score, best first; scores are compared at equal rungs only.

    Sorted by the lowest rung; then at each higher one those that reached it are sorted anew among the places that they
    hold. So a trial that was stopped keeps its place, and those that went on are ordered by what they came to.
    """
    order: list[int] = []
    for rung in sorted(rungs):
        reached = [index for index, one in enumerate(observations) if rung in one.scores]
        reached.sort(key=lambda index: observations[index].scores[rung])
        known = set(order)
        new = [index for index in reached if index not in known]
        here = set(reached)
        order += new
        again = iter(reached)
        order = [next(again) if index in here else index for index in order]
    return [observations[index] for index in order]


class Parzen:
    """Density of choices: a mixture of one kernel for each known trial, and the uniform one."""

    def __init__(self, known, min_width: float, scale: float = 1.0, weights=None, prior: float = 1.0) -> None:
        self.known = known
        self.size = len(known)
        w = np.ones(self.size) if weights is None else weights / weights.mean()
        self.weights = np.append(w, prior if self.size or prior else 1.0)
        self.weights = self.weights / self.weights.sum()
        self.min_width = min_width
        self.scale = scale
        self._columns: dict[str, tuple[Floats, float]] = {}
        self.factor = max(self.size, 1) ** (-1 / (4 + max((len(one) for one in known), default=1)))

    def column(self, name: str, node: Node) -> tuple[Floats, float]:
        if name not in self._columns:
            units = np.full(self.size, np.nan)
            for index, one in enumerate(self.known):
                if name in one:
                    units[index] = _unit(*one[name])
            have = units[~np.isnan(units)]
            if isinstance(node, Choice):
                k = len(node.options)
                width = min(0.5, max(0.1 if self.scale==0 else 0.05, k / (len(have) + k)))
            else:
                spread = have.std() if len(have) > 1 else 0.3
                width = max(self.min_width, self.scale * self.factor * max(spread, 0.02))
                if node.is_integer and not node.is_log:
                    width = max(width, 0.4 / (node.high - node.low))
            self._columns[name] = units, width
        return self._columns[name]

    def sampler(self, random: np.random.Generator) -> ParzenChooser:
        index = int(random.choice(self.size + 1, p=self.weights))
        return ParzenChooser(self, index if index < self.size else None, random)

    def log_density(self, points: Sequence[Drawn]) -> Floats:
        """Logarithm of the density at some points."""
        names: dict[str, Node] = {name: node for point in points for name, (_, node) in point.items()}
        total = np.zeros((len(points), self.size))
        for name, node in names.items():
            units, width = self.column(name, node)
            at = np.array([_unit(*point[name]) if name in point else np.nan for point in points])
            if isinstance(node, Choice):
                num = len(node.options)
                kernel = np.where(at[:, None] == units, 1 - width, 0) + width / num
                kernel = np.log(kernel * num)
            else:
                mass = ndtr((1 - units) / width) - ndtr(-units / width)
                kernel = -0.5 * ((at[:, None] - units) / width) ** 2 - np.log(math.sqrt(2 * math.pi) * width * mass)
            total += np.where(np.isnan(at)[:, None] | np.isnan(units), 0.0, kernel)
        everything = np.concatenate([total, np.zeros((len(points), 1))], axis=1)
        with np.errstate(divide="ignore"):
            everything = everything + np.log(self.weights)
        peak = everything.max(axis=1, keepdims=True)
        return np.asarray(peak[:, 0] + np.log(np.exp(everything - peak).sum(axis=1)))


def _unit(value: Any, node: Node) -> float:
    """Position of a value: in [0, 1] of a range, index of an option."""
    if isinstance(node, Choice):
        return float(next(index for index, option in enumerate(node.options) if option.label == value))
    return to_unit(value, node)


class ParzenChooser:
    """Draws from one kernel of a density; from the uniform one where the kernel's trial had no such choice."""

    def __init__(self, density: Parzen, index: int | None, random: np.random.Generator) -> None:
        self.density = density
        self.index = index
        self.random = random

    def _center(self, name: str, node: Node) -> tuple[float, float]:
        units, width = self.density.column(name, node)
        return (math.nan if self.index is None else float(units[self.index])), width

    def number(self, name: str, node: Range) -> float:
        center, width = self._center(name, node)
        unit = float(self.random.random())
        if not math.isnan(center):
            unit = center + width * self.random.standard_normal()
            while not 0 <= unit <= 1:
                unit = center + width * self.random.standard_normal()
        return from_unit(unit, node)

    def option(self, name: str, node: Choice) -> Any:
        center, width = self._center(name, node)
        if math.isnan(center) or self.random.random() < width:
            return node.options[int(self.random.integers(len(node.options)))].label
        return node.options[int(center)].label
