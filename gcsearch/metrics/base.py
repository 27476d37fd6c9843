"""What every metric provides.

To add one: a file beside this one with a frozen dataclass and `@metrics.register("name")`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from gcsearch.metrics.reference import ReferenceFeatures
from gcsearch.registry import Component, Registry


class Metric(Component, ABC):
    """A distance between generated examples and the data, seen through a feature extractor.

    Attributes:
        lower_is_better: Direction of all its keys.
        needs_classes: Whether the extractor must be a classifier (`Extractor.has_classes`).
    """

    lower_is_better: ClassVar[bool]
    needs_classes: ClassVar[bool] = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Short names of the values, the main one first."""
        return (self.name,)

    @property
    def min_samples(self) -> int:
        """Fewest generated, and fewest real, examples that the metric is defined for."""
        return 4

    @abstractmethod
    def compute(self, generated: Tensor, reference: ReferenceFeatures) -> dict[str, float]:
        """Values under `keys`, from the features of generated examples, shape (N, d).

        Non-finite features give NaN under every key, never an exception: the trainer turns a non-finite metric into
        a diverged trial.
        """

    def resampled(self, generated: Tensor, reference: ReferenceFeatures, counts: Tensor) -> dict[str, Tensor]:
        """Values under `keys` for resamples of the generated examples, shape (B,) each; the bootstrap's raw material.

        Args:
            generated: Finite features, (N, d).
            reference: Features of the data, which are not resampled.
            counts: How often each example is in each resample, float64, (B, N).

        Returns:
            A key that is left out has no interval: resampling with replacement would say nothing about it.
        """
        del generated, reference, counts
        return {}

    def check_count(self, generated: Tensor) -> None:
        """Nothing, if there are enough generated examples.

        Raises:
            ValueError: There are too few.
        """
        if len(generated) < self.min_samples:
            raise ValueError(
                f"metric '{self.name}': there must be at least {self.min_samples} samples, got {len(generated)}"
            )

    def undefined(self) -> dict[str, float]:
        """NaN under every key: the result for features that are not finite."""
        return dict.fromkeys(self.keys, float("nan"))


metrics: Registry[Metric] = Registry("metric")
