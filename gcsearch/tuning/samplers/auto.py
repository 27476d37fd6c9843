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
    unit_of,
)
from gcsearch.tuning.space import Choice, Chooser, FixedChooser, Node, Range

Floats = NDArray[np.float64]

MIN_WIDTH = 0.06
"""Narrowest kernel of a density on a range, as a share of it."""

PRIOR_SPREAD_TRIALS = 1
"""Trials that the spread of a range counts as, when that of known trials is estimated."""

STEPS = (0.01, 0.4)
"""Smallest and largest standard deviation of a local change, as a share of the range."""

PRIOR_AGREEING, PRIOR_OPPOSED = 3, 1
"""Pairs of trials that a rung is taken to have ranked rightly and wrongly before anything is known."""


@search_samplers.register("auto")
@dataclass(frozen=True, kw_only=True)
class RungAwareTPE(SearchSampler):
    """Tree-structured Parzen estimator on the highest rung that enough trials have reached.

    A stopped trial's early score is never taken for a final one: the model sees the scores of one rung only. The best
    trials there make one density, the others, with those under way and the diverged, make another; of some draws from
    the first, the one with the largest ratio is taken. A share of the trials changes one of the best instead, a little
    or a lot, which refines what the densities are too wide for.

    The model of a rung below the horizon is asked only as often as that rung ranks trials like later ones: with
    probability max(0, tau), its Kendall correlation with the last scores of the trials that went further. Otherwise,
    and for a fixed share, the trial is random, so that a rung that misleads cannot lock the search in. Of trials with
    the same score only the first can be good; the others show that there is nothing to gain nearby, and that the model
    repeats itself, so the probability is also multiplied by the share of scores that differ.

    Attributes:
        min_observations: Finite scores that a rung needs before it is modelled. Diverged trials do not count towards
            it, as a rung that only they "reached" says nothing about what is good; once it is modelled they are bad.
        random_share: Probability that a trial is drawn at random, in [0, 1].
        local_share: Probability that another one varies one of the best, in [0, 1].
        good_share: Share of the trials at the rung that count as good, in (0, 1).
        num_candidates: Draws from which a suggestion is taken.

    Source: Bergstra et al. 2011 for the estimator; the rung rule is BOHB's (Falkner et al. 2018, arXiv:1807.01774); the
        trust in a rung and the local share are ours.
    """

    min_observations: int = 8
    random_share: float = 0.2
    local_share: float = 0.25
    good_share: float = 0.15
    num_candidates: int = 32

    def __post_init__(self) -> None:
        if self.min_observations < 2:
            raise ValueError(f"min_observations must be at least 2, got {self.min_observations}")
        for name in ("random_share", "local_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 < self.good_share < 1:
            raise ValueError(f"good_share must be in (0, 1), got {self.good_share}")
        if self.num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1, got {self.num_candidates}")

    def chooser(self, history: History) -> Chooser:
        random = history.generator(1)
        rung = self._modelled_rung(history)
        if rung is None or random.random() < self.random_share:
            return RandomChooser(history.seed, history.number)
        if random.random() > self._trust(history, rung):
            return RandomChooser(history.seed, history.number)
        good, rest = self._split(history, rung)
        if random.random() < self.local_share:
            center = good[min(int(random.exponential()), len(good) - 1)]
            return _fixed(history.draw(NeighbourChooser(center, random)))
        under_way = [one for one in history.observations if one.is_running and rung not in one.scores]
        promising, poor = Parzen(good), Parzen([*rest, *under_way])
        candidates = [history.draw(promising.chooser(random)) for _ in range(self.num_candidates)]
        gains = promising.log_density(candidates) - poor.log_density(candidates)
        return _fixed(candidates[int(np.argmax(gains))])

    def _modelled_rung(self, history: History) -> int | None:
        for rung in sorted(history.rungs, reverse=True):
            if sum(_is_finite(one, rung) for one in history.observations) >= self.min_observations:
                return rung
        return None

    @staticmethod
    def _trust(history: History, rung: int) -> float:
        """Share of the model's trials: how well the rung ranks, times the share of scores there that differ."""
        scores = [one.scores[rung] for one in history.observations if _is_finite(one, rung)]
        is_last = rung == history.rungs[-1]
        return len(set(scores)) / len(scores) * (1.0 if is_last else rank_agreement(history.observations, rung))

    def _split(self, history: History, rung: int) -> tuple[list[Observation], list[Observation]]:
        """Good trials at a rung, best first, and the others."""
        ranked = sorted((one for one in history.observations if rung in one.scores), key=lambda one: one.scores[rung])
        firsts = list({one.scores[rung]: one for one in reversed(ranked) if _is_finite(one, rung)}.values())[::-1]
        num_good = min(len(firsts), max(2, math.ceil(self.good_share * len(firsts))))
        good = firsts[:num_good]
        chosen = {id(one) for one in good}
        return good, [one for one in ranked if id(one) not in chosen]


def rank_agreement(observations: Sequence[Observation], rung: int) -> float:
    """Kendall correlation of the scores at a rung with later ones, 0 where it is negative.

    A pair of trials that went further is compared at the highest rung that both have. PRIOR_AGREEING and
    PRIOR_OPPOSED pairs are added, so it is 0.5 before anything is known.

    Args:
        observations: Trials.
        rung: Images of the rung.
    """
    later = [one.scores for one in observations if _is_finite(one, rung) and max(one.scores) > rung]
    if len(later) < 2:
        return (PRIOR_AGREEING - PRIOR_OPPOSED) / (PRIOR_AGREEING + PRIOR_OPPOSED)
    rungs = sorted({images for scores in later for images in scores})
    highest = np.array([rungs.index(max(scores)) for scores in later], dtype=np.int64)
    table = np.array([[scores.get(images, math.inf) for images in rungs] for scores in later])
    left, right = np.triu_indices(len(later), k=1)
    shared = np.minimum(highest[left], highest[right])
    here = table[left, rungs.index(rung)] - table[right, rungs.index(rung)]
    with np.errstate(invalid="ignore"):  # of two that diverged neither is better
        there = table[left, shared] - table[right, shared]
    agreeing = PRIOR_AGREEING + np.count_nonzero(here * there > 0)
    opposed = PRIOR_OPPOSED + np.count_nonzero(here * there < 0)
    return max(0.0, (agreeing - opposed) / (agreeing + opposed))


def _is_finite(one: Observation, rung: int) -> bool:
    return math.isfinite(one.scores.get(rung, math.inf))


def _fixed(drawn: Drawn) -> FixedChooser:
    return FixedChooser({name: value for name, (value, _) in drawn.items()})


class Parzen:
    """Density of choices: a mixture of one kernel for each known trial, and the uniform density.

    A kernel is a product over the choices its trial made: a Gaussian cut off at the ends of a range, the same option
    with the rest spread evenly over all. Over a choice that its trial did not have it is uniform.

    Args:
        known: Trials under the kernels.
    """

    def __init__(self, known: Sequence[Observation]) -> None:
        self.known = known
        self.num_kernels = len(known) + 1
        most = max((len(one.units) for one in known), default=1)
        self._shrink = max(len(known), 1) ** (-1 / (4 + most))  # Scott's rule
        self._columns: dict[str, tuple[Floats, float]] = {}

    def column(self, name: str, node: Node) -> tuple[Floats, float]:
        """Centres of the kernels along one choice, NaN where there is none, and their width."""
        if name not in self._columns:
            units = np.array([one.units.get(name, math.nan) for one in self.known])
            present = units[~np.isnan(units)]
            if isinstance(node, Choice):
                num = len(node.options)
                width = min(0.5, num / (len(present) + num))
            else:
                width = max(MIN_WIDTH, self._shrink * _spread(present))
                if node.is_integer and not node.is_log:
                    width = max(width, 0.4 / (node.high - node.low))
            self._columns[name] = units, width
        return self._columns[name]

    def chooser(self, random: np.random.Generator) -> ParzenChooser:
        """Chooser that draws from one kernel, taken at random."""
        index = int(random.integers(self.num_kernels))
        return ParzenChooser(self, index if index < len(self.known) else None, random)

    def log_density(self, points: Sequence[Drawn]) -> Floats:
        """Logarithm of the density at some points, relative to the uniform density."""
        nodes = {name: node for point in points for name, (_, node) in point.items()}
        total = np.zeros((len(points), self.num_kernels))
        for name, node in nodes.items():
            units, width = self.column(name, node)
            at = np.array([unit_of(*point[name]) if name in point else math.nan for point in points])[:, None]
            if isinstance(node, Choice):
                num = len(node.options)
                kernel = np.log(np.where(at == units, 1 - width + width / num, width / num) * num)
            else:
                mass = ndtr((1 - units) / width) - ndtr(-units / width)
                kernel = -0.5 * ((at - units) / width) ** 2 - np.log(math.sqrt(2 * math.pi) * width * mass)
            total[:, : len(self.known)] += np.where(np.isnan(at) | np.isnan(units), 0.0, kernel)
        peak = total.max(axis=1, keepdims=True)
        return np.asarray(peak[:, 0] + np.log(np.exp(total - peak).mean(axis=1)))


def _spread(units: Floats) -> float:
    """Standard deviation of places along a range, pooled with that of the uniform density, which counts as
    PRIOR_SPREAD_TRIALS trials. On its own that of two or three good trials, which may be close by chance, would make a
    density so narrow that the search stays there.
    """
    squares = float(((units - units.mean()) ** 2).sum()) if len(units) else 0.0
    degrees = PRIOR_SPREAD_TRIALS + max(len(units) - 1, 0)
    return math.sqrt((PRIOR_SPREAD_TRIALS / 12 + squares) / degrees)


class ParzenChooser:
    """Draws from one kernel of a density, and evenly where the kernel's trial had no such choice.

    Args:
        density: The density.
        index: Number of the kernel; None for the uniform density.
        random: Source of random numbers.
    """

    def __init__(self, density: Parzen, index: int | None, random: np.random.Generator) -> None:
        self.density = density
        self.index = index
        self.random = random

    def _kernel(self, name: str, node: Node) -> tuple[float, float]:
        units, width = self.density.column(name, node)
        return (math.nan if self.index is None else float(units[self.index])), width

    def number(self, name: str, node: Range) -> float:
        center, width = self._kernel(name, node)
        if math.isnan(center):
            return from_unit(float(self.random.random()), node)
        unit = center + width * self.random.standard_normal()
        while not 0 <= unit <= 1:
            unit = center + width * self.random.standard_normal()
        return from_unit(unit, node)

    def option(self, name: str, node: Choice) -> Any:
        center, width = self._kernel(name, node)
        if math.isnan(center) or self.random.random() < width:
            return node.options[int(self.random.integers(len(node.options)))].label
        return node.options[int(center)].label


class NeighbourChooser:
    """Varies a trial: all its choices or some of them, by a step whose size is log-uniform, as none is right for all.

    A range takes a Gaussian step, reflected at its ends; a choice takes another option more often in a larger step. One
    choice, taken at random, changes in any case, since the same trial again would teach nothing.

    Args:
        center: The trial.
        random: Source of random numbers.
    """

    def __init__(self, center: Observation, random: np.random.Generator) -> None:
        self.center = center
        self.random = random
        self.width = math.exp(random.uniform(math.log(STEPS[0]), math.log(STEPS[1])))
        self.share = 1.0 if random.random() < 0.5 else float(random.uniform(0.1, 0.6))
        names = sorted(center.units)
        self.changed = names[int(random.integers(len(names)))] if names else None

    def number(self, name: str, node: Range) -> float:
        if name not in self.center.units:
            return from_unit(float(self.random.random()), node)
        unit = self.center.units[name]
        here = from_unit(unit, node)
        if name != self.changed and self.random.random() > self.share:
            return here
        moved = abs(unit + self.width * self.random.standard_normal())
        value = from_unit(min(max(min(moved, 2 - moved), 0.0), 1.0), node)
        if node.is_integer and value == here:  # a step too small to be seen
            value = int(min(max(value + (1 if self.random.random() < 0.5 else -1), node.low), node.high))
        return value

    def option(self, name: str, node: Choice) -> Any:
        labels = [option.label for option in node.options]
        if name not in self.center.units:
            return labels[int(self.random.integers(len(labels)))]
        here = int(self.center.units[name])
        if len(labels) > 1 and (name == self.changed or self.random.random() < self.share * min(0.5, self.width)):
            return labels[(here + int(self.random.integers(1, len(labels)))) % len(labels)]
        return labels[here]
