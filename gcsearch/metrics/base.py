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
    """

    lower_is_better: ClassVar[bool]

    @property
    def keys(self) -> tuple[str, ...]:
        """Short names of the values, the metric's own name first."""
        return (self.name,)

    @abstractmethod
    def compute(self, generated: Tensor, reference: ReferenceFeatures) -> dict[str, float]:
        """Values under `keys`, from the features of generated examples, shape (N, d).

        Non-finite features give NaN under every key, never an exception: the trainer turns a non-finite metric into
        a diverged trial.
        """

    def undefined(self) -> dict[str, float]:
        """NaN under every key: the result for features that are not finite."""
        return dict.fromkeys(self.keys, float("nan"))


metrics: Registry[Metric] = Registry("metric")
