"""Intervals and power of means over a few seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import optimize, stats

CONFIDENCE: Final = 0.95

RETRAINING_NOISE: Final = (0.01, 0.02)
"""Standard deviation of FID between trainings that differ in their seed alone, as a share of FID: 1 to 2 %, and no less
with longer training (arXiv:2606.20536)."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Mean over seeds with its confidence interval.

    Attributes:
        mean: Arithmetic mean.
        low: Lower end; None with fewer than two seeds.
        high: Upper end; None with fewer than two seeds.
        num: Number of seeds.
    """

    mean: float
    low: float | None
    high: float | None
    num: int


def t_interval(values: Sequence[float]) -> Interval:
    """Student's interval of 95 % for the mean: mean +- t_{0.975, n - 1} s / sqrt(n)."""
    array = np.asarray(values, dtype=np.float64)
    mean, num = float(array.mean()), len(array)
    if num < 2:
        return Interval(mean=mean, low=None, high=None, num=num)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, num - 1) * array.std(ddof=1) / math.sqrt(num))
    return Interval(mean=mean, low=mean - half, high=mean + half, num=num)


def tie_margin(groups: Sequence[Sequence[float]]) -> float:
    """Least difference of two means that is beyond noise, from the spread inside all groups together.

    t_{0.975, N - k} s sqrt(2 / n), with the pooled standard deviation s of k groups of n values, N = k n

    Args:
        groups: Values of each group, of equal size of at least two.
    """
    sizes = {len(group) for group in groups}
    assert len(sizes) == 1, sizes
    num = sizes.pop()
    freedom = len(groups) * (num - 1)
    variance = sum(float(np.var(group, ddof=1)) for group in groups) / len(groups)
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(2 * variance / num)


def t_test_power(gap: float, deviation: float, num: int) -> float:
    """Probability that a two-sample t test at the 5 % level sees a gap between two means of `num` values each.

    Args:
        gap: True difference of the means.
        deviation: Standard deviation of the values.
        num: Values in each sample, at least two.
    """
    freedom = 2 * (num - 1)
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    shift = gap / deviation * math.sqrt(num / 2)
    return float(stats.nct.sf(critical, freedom, shift) + stats.nct.sf(critical, freedom, -shift))


def resolvable_gap(deviation: float, num: int, power: float = 0.8) -> float:
    """Smallest gap that `t_test_power` sees with the given probability, in the unit of `deviation`."""
    unit = deviation * math.sqrt(2 / num)  # standard error of the difference

    def missing(errors: float) -> float:
        return t_test_power(errors * unit, deviation, num) - power

    return float(optimize.brentq(missing, 0.0, 12.0)) * unit


def paired_power(gap: float, deviation: float, num: int, correlation: float, alpha: float = 1 - CONFIDENCE) -> float:
    """Probability that a paired t test sees a gap between two means of `num` values each.

    The differences have the standard deviation deviation * sqrt(2 (1 - correlation)), so the statistic is noncentral t
    with num - 1 degrees of freedom and noncentrality gap / deviation * sqrt(num / (2 (1 - correlation))).

    Args:
        gap: True difference of the means.
        deviation: Standard deviation of the values of either side.
        num: Pairs, at least two.
        correlation: Of the two values of a pair, below 1.
        alpha: Level of the test.
    """
    critical = stats.t.ppf(1 - alpha / 2, num - 1)
    shift = gap / deviation * math.sqrt(num / (2 * (1 - correlation)))
    return float(stats.nct.sf(critical, num - 1, shift) + stats.nct.sf(critical, num - 1, -shift))


def resolvable_paired_gap(
    deviation: float, num: int, correlation: float, *, alpha: float = 1 - CONFIDENCE, power: float = 0.8
) -> float:
    """Smallest gap that `paired_power` sees with the given probability, in the unit of `deviation`."""
    unit = deviation * math.sqrt(2 * (1 - correlation) / num)

    def missing(errors: float) -> float:
        return paired_power(errors * unit, deviation, num, correlation, alpha) - power

    return float(optimize.brentq(missing, 0.0, 1e4)) * unit
