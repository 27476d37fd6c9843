"""Two recipes on the same seeds: how far apart they are, whether that is noise, whether it is next to nothing.

Both recipes of a pair share initialisation, data order, noise and evaluation latents, so what a seed does to both
cancels in the difference. How much does is the correlation, which is reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from gcsearch.statistics.replicates import CONFIDENCE, Interval, t_interval

NUM_RESAMPLES: Final = 2_000
MIN_BOOTSTRAP: Final = 5
"""Pairs from which on a bootstrap says something: of four, one resample in 64 holds a single pair."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Differences below this count as none.

    Attributes:
        value: The margin, > 0.
        is_relative: Whether it is a share of the reference's mean; else it has the unit of the score.
    """

    value: float
    is_relative: bool = True

    def __post_init__(self) -> None:
        if not self.value > 0 or not math.isfinite(self.value):
            raise ValueError(f"equivalence must be > 0, got {self.value:g}")
        if self.is_relative and self.value >= 1:
            raise ValueError(f"equivalence must be below 100 %, got {100 * self.value:g} %")

    def __str__(self) -> str:
        return f"{100 * self.value:g} %" if self.is_relative else f"{self.value:g}"


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A difference on each seed, lower scores being better.

    Attributes:
        gaps: Score minus that of the reference, or for an interaction the difference of two such differences.
        references: Score of the reference.
    """

    gaps: tuple[float, ...]
    references: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.gaps) == len(self.references)

    def first(self, num: int) -> Paired:
        """The first so many seeds."""
        return Paired(gaps=self.gaps[:num], references=self.references[:num])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the differences say.

    Attributes:
        gap: Mean difference with Student's interval of 95 %.
        share: The same over the reference's mean; None if that is not positive.
        p_different: Two-sided paired t test; 1 with fewer than two pairs.
        p_equivalent: The larger p value of two one-sided tests that the difference is inside the margin.
        correlation: Of the two scores of a seed; None where it is not defined.
        seeds_saved: Unpaired seeds that would give as narrow an interval, minus the pairs; None without a correlation.
    """

    gap: Interval
    share: Interval | None
    p_different: float
    p_equivalent: float
    correlation: float | None
    seeds_saved: float | None


def compare(pairs: Paired, margin: Margin) -> Comparison:
    """Compare on all pairs.

    Equivalence within a share m of the reference is tested on the two linear combinations that it means,
    mean(gap - m reference) < 0 and mean(gap + m reference) > 0, so no mean is taken for known.
    """
    gaps, references = np.asarray(pairs.gaps), np.asarray(pairs.references)
    edge = margin.value * references if margin.is_relative else np.full(len(gaps), margin.value)
    gap, center = t_interval(pairs.gaps), float(references.mean())
    correlation, saved = _pairing(gaps, references)
    return Comparison(
        gap=gap,
        share=_scaled(gap, center) if center > 0 else None,
        p_different=_p_value(gaps, "two-sided"),
        p_equivalent=max(_p_value(gaps - edge, "less"), _p_value(gaps + edge, "greater")),
        correlation=correlation,
        seeds_saved=saved,
    )


def _p_value(values: Array, alternative: str) -> float:
    """Of a t test that the mean is zero; for values that are all equal, the limit."""
    if len(values) < 2:
        return 1.0
    mean = values.mean()
    if np.ptp(values) <= 1e-12 * max(abs(mean), 1e-300):
        holds = {"two-sided": mean != 0, "less": mean < 0, "greater": mean > 0}[alternative]
        return 0.0 if holds else 1.0
    statistic, freedom = mean / values.std(ddof=1) * math.sqrt(len(values)), len(values) - 1
    if alternative == "two-sided":
        return float(2 * special.stdtr(freedom, -abs(statistic)))
    return float(special.stdtr(freedom, statistic if alternative == "less" else -statistic))


def _scaled(interval: Interval, unit: float) -> Interval:
    ends = (None if end is None else end / unit for end in (interval.low, interval.high))
    low, high = ends
    return Interval(mean=interval.mean / unit, low=low, high=high, num=interval.num)


def _pairing(gaps: Array, references: Array) -> tuple[float | None, float | None]:
    """Correlation of the two scores, and the seeds that pairing saves.

    Without pairing the variance of the difference is var(x) + var(y) instead of var(x - y), and the number of seeds
    for the same width grows with it.
    """
    if len(gaps) < 3:
        return None, None
    others = gaps + references
    if min(np.ptp(others), np.ptp(references), np.ptp(gaps)) <= 0:
        return None, None
    ratio = (others.var(ddof=1) + references.var(ddof=1)) / gaps.var(ddof=1)
    return float(np.corrcoef(others, references)[0, 1]), float(len(gaps) * (ratio - 1))


def bootstrap_interval(pairs: Paired) -> tuple[float, float] | None:
    """BCa interval of 95 % of the mean difference, a check on Student's; None with few pairs, or if all are equal."""
    gaps = np.asarray(pairs.gaps)
    if len(gaps) < MIN_BOOTSTRAP or np.ptp(gaps) == 0:
        return None
    found = stats.bootstrap(
        (gaps,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=NUM_RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired(scores: Sequence[float], references: Sequence[float]) -> Paired:
    """Pairs of the scores of a recipe and of its reference, seed by seed."""
    gaps = (score - reference for score, reference in zip(scores, references, strict=True))
    return Paired(gaps=tuple(gaps), references=tuple(references))
