"""The noise ledger: how much of the noise of an ablation's reference comes from what, from the study's ledger.

Its events are ``noise_scored``: the weights of one training of the reference, scored on one set of latents with one
number of samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gcsearch.ledger import StudyState
from gcsearch.metrics.identity import check_comparable
from gcsearch.statistics import Components, Estimate, Interval, crossed_components, t_interval


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What makes the scores of a recipe noisy.

    Attributes:
        arm: The recipe, as the ablation calls it.
        recipe: Its fingerprint without the seed.
        key: The score, e.g. ``eval/fid``.
        by_size: Numbers of samples, increasing, the last being what the ablation is judged with, and the components of
            variance of the score there.
        bias: How much higher the score is with that many samples than with infinitely many: c / N, from a fit of
            mean + c / N to the means over trainings at all sizes, for each set of latents; the mean over these with
            Student's interval. None with one size.
    """

    arm: str
    recipe: str
    key: str
    by_size: tuple[tuple[int, Components], ...]
    bias: Interval | None

    @property
    def num_samples(self) -> int:
        """Samples that the ablation is judged with."""
        return self.by_size[-1][0]

    @property
    def components(self) -> Components:
        """Components of variance at that many samples."""
        return self.by_size[-1][1]

    @property
    def deviation(self) -> Estimate | None:
        """Standard deviation over training seeds on the same latents, as a share of the mean; None for a mean <= 0."""
        mean = self.components.mean
        return self.components.paired.root(mean) if mean > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        sizes = [{"num_samples": num} | asdict(components) for num, components in self.by_size]
        return {
            "arm": self.arm,
            "recipe": self.recipe,
            "key": self.key,
            "by_size": sizes,
            "bias": asdict(self.bias) if self.bias else None,
        }


@dataclass(frozen=True, kw_only=True)
class KnownNoise:
    """What an earlier ablation knows of a recipe's noise.

    Attributes:
        study: The ablation.
        num_seeds: Trainings of the recipe.
        is_measured: Whether on several sets of latents; else it is the spread over the seeds on one.
        deviation: Standard deviation over training seeds on the same latents, as a share of the mean.
        correlation: Median over its contrasts of the correlation of two arms' scores on a seed; None without any.
    """

    study: str
    num_seeds: int
    is_measured: bool
    deviation: Estimate
    correlation: float | None


def read_noise(state: StudyState) -> Noise | None:
    """The noise that was measured in an ablation; None if none was, or not on two trainings and two sets of latents.

    Raises:
        ScoreError: Scores of one number of samples have different identities.
    """
    if state.ablation is None or not state.noise:
        return None
    key = state.ablation["key"]
    scores: dict[int, dict[str, dict[int, float]]] = {}
    identities: dict[int, list[str]] = {}
    for event in state.noise:
        if key in event["metrics"]:
            by_training = scores.setdefault(event["num_samples"], {})
            by_training.setdefault(event["trial"], {})[event["latents_seed"]] = event["metrics"][key]
            identities.setdefault(event["num_samples"], []).append(event["identities"][key])
    by_size, means = [], []
    for num, by_training in sorted(scores.items()):
        check_comparable(identities[num])
        draws = set.intersection(*(set(found) for found in by_training.values()))
        if len(by_training) > 1 and len(draws) > 1:
            table = [[found[seed] for seed in sorted(draws)] for found in by_training.values()]
            by_size.append((num, crossed_components(table)))
            means.append(dict(zip(sorted(draws), np.mean(table, axis=0), strict=True)))
    if not by_size:
        return None
    trial = state.trials[state.noise[0]["trial"]]
    bias = _bias([num for num, _ in by_size], means) if len(by_size) > 1 else None
    return Noise(arm=trial.arm or "", recipe=trial.recipe, key=key, by_size=tuple(by_size), bias=bias)


def _bias(sizes: Sequence[int], means: Sequence[Mapping[int, float]]) -> Interval:
    """Of the largest size, from the mean over trainings on each set of latents at each size."""
    draws = sorted(set.intersection(*(set(found) for found in means)))
    inverse = np.asarray([1 / num for num in sizes])
    slopes, _ = np.polyfit(inverse, np.asarray([[found[draw] for draw in draws] for found in means]), 1)
    return t_interval([float(slope * inverse[-1]) for slope in slopes])
