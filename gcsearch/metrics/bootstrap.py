"""How far a score may be off because the generated examples are a sample: jackknife or bootstrap over the examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from gcsearch.metrics.base import SampleMetric
from gcsearch.metrics.reference import ReferenceFeatures
from gcsearch.science.randomness import generator

NORMAL_QUANTILE: Final = 1.959964
"""Of a 95 % interval, in standard deviations."""

CHUNK: Final = 50
"""Resamples at once; 50 x 50,000 counts are 20 MB."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """95 % interval of a score over draws of the generated examples, for one network and one set of data.

    It says nothing about another training with another seed, which moves FID more than another draw does.
    """

    low: float
    high: float


def intervals(
    metrics: Sequence[SampleMetric],
    scores: dict[str, float],
    generated: Tensor,
    reference: ReferenceFeatures,
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """Interval of every finite score that has one: score -+ 1.96 standard deviations over draws of the examples.

    Where a metric knows its influences U_i (FID), the standard deviation is that of the infinitesimal jackknife, to
    which the bootstrap's converges with the number of resamples and of examples:

    sd = sqrt(sum over i of U_i^2) / N

    Otherwise (KID, inception score) it is that of the score over resamples. The percentiles of the resamples themselves
    would be wrong: a resample of N examples has about 0.63 N different ones, so a score that is too high for few
    examples is higher for a resample; its spread is right.

    Args:
        metrics: Metrics.
        scores: Their values for all examples, the middle of the intervals.
        generated: Features, (N, d).
        reference: Features of the data, which are not resampled.
        num_resamples: Number of resamples, at least 2; 200 give the width to 5 %.
        seed: Of the resamples.

    Source: Efron 1982, "The Jackknife, the Bootstrap and Other Resampling Plans", chapter 6.
    """
    if num_resamples < 2:
        raise ValueError(f"num_resamples must be at least 2, got {num_resamples}")
    if not generated.isfinite().all():
        return {}
    deviations: dict[str, float] = {}
    to_resample = []
    for metric in metrics:
        if influences := metric.influences(generated, reference):
            deviations |= {key: float(values.square().sum().sqrt()) / len(values) for key, values in influences.items()}
        else:
            to_resample.append(metric)
    deviations |= _bootstrapped(to_resample, generated, reference, num_resamples, seed)
    result = {}
    for key, deviation in deviations.items():
        half_width = NORMAL_QUANTILE * deviation
        if math.isfinite(scores[key]) and math.isfinite(half_width):
            result[key] = Interval(low=scores[key] - half_width, high=scores[key] + half_width)
    return result


def _bootstrapped(
    metrics: Sequence[SampleMetric], generated: Tensor, reference: ReferenceFeatures, num_resamples: int, seed: int
) -> dict[str, float]:
    """Standard deviation over resamples, for every key that has one."""
    collected: dict[str, list[Tensor]] = {}
    for counts in _resamples(len(generated), num_resamples, seed) if metrics else ():
        for metric in metrics:
            for key, values in metric.resampled(generated, reference, counts).items():
                collected.setdefault(key, []).append(values)
    return {key: float(torch.cat(parts).std()) for key, parts in collected.items()}


def _resamples(num: int, num_resamples: int, seed: int) -> Iterator[Tensor]:
    """How often each of `num` examples is in each resample, float64 (B, num), in chunks."""
    for start in range(0, num_resamples, CHUNK):
        rows = []
        for resample in range(start, min(start + CHUNK, num_resamples)):
            # A stream per resample, so that more of them begin with the same ones.
            chosen = torch.randint(num, (num,), generator=generator(seed, "metric", resample))
            rows.append(torch.bincount(chosen, minlength=num).double())
        yield torch.stack(rows)
