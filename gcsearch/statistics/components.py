"""Components of variance of a score that trainings and sets of latents share: which of the two makes it noisy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from scipy import stats

from gcsearch.statistics.replicates import CONFIDENCE

TAIL: Final = (1 - CONFIDENCE) / 2


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def root(self, unit: float) -> Estimate:
        """Of a variance: the standard deviation, over `unit`."""
        value, low, high = (math.sqrt(one) / unit for one in (self.value, self.low, self.high))
        return Estimate(value=value, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Components:
    """Score of training s on latents k: mean + T_s + L_k + E_sk, all independent.

    Attributes:
        mean: Over all scores.
        num_trainings: Training seeds S.
        num_draws: Sets of latents K.
        training: Variance of T, what another training seed changes on any latents.
        sampling: Variance of L, what other latents change in every training alike: gone from differences on the same
            latents.
        both: Variance of E, what other latents change in this training and not in that.
        paired: Variance of T + E, the noise of scores on the same latents, and so of paired differences.
        training_share: Share of T in it: whether more seeds help, or more samples.
    """

    mean: float
    num_trainings: int
    num_draws: int
    training: Estimate
    sampling: Estimate
    both: Estimate
    paired: Estimate
    training_share: Estimate


def crossed_components(scores: Sequence[Sequence[float]]) -> Components:
    """Components of variance of a table of scores, from its mean squares.

    With S rows and K columns, MS_T = K sum_s (row mean - mean)^2 / (S - 1), MS_L likewise, MS_E of the rest:

    var E = MS_E,  var T = (MS_T - MS_E) / K,  var L = (MS_L - MS_E) / S,  var (T + E) = MS_T / K + (1 - 1 / K) MS_E

    Estimates below 0 count as 0. Intervals are 95 %: of var E by chi squared; of differences by the modified large
    sample method of Ting, Burdick, Graybill, Jeyaratnam & Lu (1990), of the sum by that of Graybill & Wang (1980); of
    the share exactly, since MS_T / MS_E over 1 + K var T / var E has an F distribution.

    Args:
        scores: One row a training, one column a set of latents; at least two of each.

    Source: Searle, Casella & McCulloch, Variance Components (1992), two-way random model without replication.
    """
    table = np.asarray(scores, dtype=np.float64)
    num, draws = table.shape
    assert num > 1, table.shape
    assert draws > 1, table.shape
    mean = table.mean()
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns[None, :] + mean
    freedom = (num - 1, draws - 1, (num - 1) * (draws - 1))
    squares = (
        draws * float(((rows - mean) ** 2).sum()) / freedom[0],
        num * float(((columns - mean) ** 2).sum()) / freedom[1],
        float((rest**2).sum()) / freedom[2],
    )
    of_training, of_sampling, of_both = squares
    return Components(
        mean=float(mean),
        num_trainings=num,
        num_draws=draws,
        training=_difference(of_training, of_both, freedom[0], freedom[2], draws),
        sampling=_difference(of_sampling, of_both, freedom[1], freedom[2], num),
        both=Estimate(
            value=of_both,
            low=of_both / _chi(1 - TAIL, freedom[2]),
            high=of_both / _chi(TAIL, freedom[2]),
        ),
        paired=_sum((of_training, of_both), (1 / draws, 1 - 1 / draws), (freedom[0], freedom[2])),
        training_share=_share(of_training, of_both, freedom[0], freedom[2], draws),
    )


@lru_cache
def _chi(probability: float, freedom: int) -> float:
    """Quantile of chi squared over its degrees of freedom."""
    return float(stats.chi2.ppf(probability, freedom)) / freedom


@lru_cache
def _f(probability: float, freedom: int, other: int) -> float:
    """Quantile of F."""
    return float(stats.f.ppf(probability, freedom, other))


def _difference(first: float, second: float, freedom: int, other: int, size: int) -> Estimate:
    """(first - second) / size, both mean squares."""
    above, below = _f(1 - TAIL, freedom, other), _f(TAIL, freedom, other)
    g_first, h_first = 1 - 1 / _chi(1 - TAIL, freedom), 1 / _chi(TAIL, freedom) - 1
    g_second, h_second = 1 - 1 / _chi(1 - TAIL, other), 1 / _chi(TAIL, other) - 1
    g_both = ((above - 1) ** 2 - g_first**2 * above**2 - h_second**2) / above
    h_both = ((1 - below) ** 2 - h_first**2 * below**2 - g_second**2) / below
    down = g_first**2 * first**2 + h_second**2 * second**2 + g_both * first * second
    up = h_first**2 * first**2 + g_second**2 * second**2 + h_both * first * second
    gap = first - second
    ends = (gap - math.sqrt(max(0.0, down)), gap, gap + math.sqrt(max(0.0, up)))
    low, value, high = (max(0.0, end / size) for end in ends)
    return Estimate(value=value, low=low, high=high)


def _sum(squares: tuple[float, float], weights: tuple[float, float], freedom: tuple[int, int]) -> Estimate:
    parts = [weight * square for weight, square in zip(weights, squares, strict=True)]
    value = sum(parts)
    down = math.hypot(*(part * (1 - 1 / _chi(1 - TAIL, one)) for part, one in zip(parts, freedom, strict=True)))
    up = math.hypot(*(part * (1 / _chi(TAIL, one) - 1) for part, one in zip(parts, freedom, strict=True)))
    return Estimate(value=value, low=max(0.0, value - down), high=value + up)


def _share(first: float, second: float, freedom: int, other: int, size: int) -> Estimate:
    """Share of var T in var T + var E."""
    if second <= 0:
        value = 1.0 if first > 0 else 0.0
        return Estimate(value=value, low=value, high=value)
    ratio = first / second
    quantiles = (_f(1 - TAIL, freedom, other), 1.0, _f(TAIL, freedom, other))
    odds = [max(0.0, (ratio / quantile - 1) / size) for quantile in quantiles]
    low, value, high = (odd / (1 + odd) for odd in odds)
    return Estimate(value=value, low=low, high=high)


def spread(values: Sequence[float]) -> Estimate:
    """Variance over seeds with its chi squared interval, from at least two values."""
    freedom = len(values) - 1
    value = float(np.var(values, ddof=1))
    return Estimate(value=value, low=value / _chi(1 - TAIL, freedom), high=value / _chi(TAIL, freedom))
