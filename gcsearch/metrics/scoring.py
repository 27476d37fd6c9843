"""From features of generated examples to scores, their intervals and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gcsearch.metrics.base import SampleMetric
from gcsearch.metrics.bootstrap import Interval, intervals
from gcsearch.metrics.features import Extractor
from gcsearch.metrics.identity import SEPARATOR, ScoreIdentity, describe
from gcsearch.metrics.reference import ReferenceFeatures


@dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
    """Scores features against a reference.

    Attributes:
        metrics: Metrics to compute; their keys must not overlap.
        extractor: Feature space of all of them.
        reference: Features of the data under the same extractor.
        reference_name: Word for the data in identities, e.g. the data set's name.
    """

    metrics: Sequence[SampleMetric]
    extractor: Extractor
    reference: ReferenceFeatures
    reference_name: str

    def __post_init__(self) -> None:
        keys = [key for metric in self.metrics for key in metric.keys]
        if len(set(keys)) < len(keys):
            raise ValueError(f"metrics must have different keys, got {keys}")
        if SEPARATOR in self.reference_name:
            raise ValueError(f"reference_name must not contain '{SEPARATOR}', got '{self.reference_name}'")
        for metric in self.metrics:
            check_metric(metric, self.extractor)
            if self.reference.count < metric.min_samples:
                raise ValueError(
                    f"metric '{metric.name}': there must be at least {metric.min_samples} real examples, "
                    f"got {self.reference.count}"
                )

    @property
    def min_samples(self) -> int:
        """Fewest examples for which every metric is defined."""
        return max((metric.min_samples for metric in self.metrics), default=4)

    def scores(self, features: Tensor) -> dict[str, float]:
        """Value under every key of every metric, from features (N, d)."""
        return {
            key: value for metric in self.metrics for key, value in metric.compute(features, self.reference).items()
        }

    def undefined(self) -> dict[str, float]:
        """NaN under every key."""
        return {key: value for metric in self.metrics for key, value in metric.undefined().items()}

    def intervals(
        self, scores: dict[str, float], features: Tensor, *, num_resamples: int, seed: int
    ) -> dict[str, Interval]:
        """95 % interval over draws of the examples, for every key that has one."""
        return intervals(self.metrics, scores, features, self.reference, num_resamples=num_resamples, seed=seed)

    def identities(self, *, num_samples: int, sampler: str, quantisation: str) -> dict[str, str]:
        """Canonical score identity of every key."""
        data = f"{self.reference_name}@{self.reference.examples_sha256[:12]} x{self.reference.count}"
        return {
            key: str(
                ScoreIdentity(
                    metric=key + describe(metric).removeprefix(metric.name),
                    extractor=self.extractor.identity,
                    reference=data,
                    num_samples=num_samples,
                    sampler=sampler,
                    quantisation=quantisation,
                )
            )
            for metric in self.metrics
            for key in metric.keys
        }


def check_metric(metric: SampleMetric, extractor: Extractor) -> None:
    """Nothing, if the metric can be computed from the extractor's features.

    Raises:
        ValueError: It needs classes, and the extractor has none.
    """
    if metric.needs_classes and not extractor.has_classes:
        raise ValueError(
            f"metric '{metric.name}': the extractor must be a classifier, got '{extractor.name}'. "
            f"Leave '{metric.name}' out, or choose another extractor"
        )
