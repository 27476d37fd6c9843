"""What every metric provides.

To add one: a file beside this one with a frozen dataclass and `@metrics.register("name")`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gcsearch.metrics.reference import ReferenceFeatures
from gcsearch.registry import Component, Registry
from gcsearch.science.flows import Flow
from gcsearch.science.networks import Network
from gcsearch.science.objectives import Models, Objective, Recipe
from gcsearch.science.randomness import StepDraws
from gcsearch.science.shapes import Batch


class Metric(Component, ABC):
    """Named numbers that are recorded at every evaluation: a `SampleMetric` or a `ModelMetric`.

    Attributes:
        section: What stands before the keys in results, e.g. ``eval`` of ``eval/fid``.
    """

    section: ClassVar[str]

    @property
    def keys(self) -> tuple[str, ...]:
        """Short names of the values."""
        return (self.name,)


class SampleMetric(Metric, ABC):
    """A distance between generated examples and the data, seen through a feature extractor: a score.

    Recorded as ``eval/<key>`` for the averaged weights and ``eval/<key>_online`` for the current ones, each with its
    score identity. The first of `keys` is the main one.

    Attributes:
        lower_is_better: Direction of all its keys.
        needs_classes: Whether the extractor must be a classifier (`Extractor.has_classes`).
    """

    section = "eval"
    lower_is_better: ClassVar[bool]
    needs_classes: ClassVar[bool] = False

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

    def influences(self, generated: Tensor, reference: ReferenceFeatures) -> dict[str, Tensor]:
        """How much each generated example moves the values under `keys`, (N,) each, where a formula is known.

        U_i = derivative of the value in e at e = 0, if every example has the weight (1 - e) / N, and example i e more.

        Their mean is 0. Keys with influences need no resamples.

        Args:
            generated: Finite features, (N, d).
            reference: Features of the data.
        """
        del generated, reference
        return {}

    def resampled(self, generated: Tensor, reference: ReferenceFeatures, counts: Tensor) -> dict[str, Tensor]:
        """Values under `keys` for resamples of the generated examples, shape (B,) each; the bootstrap's raw material.

        Args:
            generated: Finite features, (N, d).
            reference: Features of the data, which are not resampled.
            counts: How often each example is in each resample, float64, (B, N).

        Returns:
            A key that is neither here nor in `influences` has no interval: resampling with replacement would say
            nothing about it.
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


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A training at one point, as a `ModelMetric` may look at it. Nothing in it may be changed.

    Attributes:
        objective: What the training minimises.
        recipe: Its scientific choices.
        network: Settings of its network.
        event_shape: Shape of one example.
        models: Its networks now.
        step: Number of its last step, 0-based: the schedules are where they were at that step.
        num_steps: Planned steps.
        batches: Data and draws of diagnostic batch number 0, 1, ..., of the size that is trained with. The same in
            every trial with this evaluation seed, at every point of training.
        flow: Exact flow of the data under independent coupling, where it is known.
        seed: Seed for whatever else is drawn; derived from the evaluation seed.
        device: Where networks and batches are.
    """

    objective: Objective
    recipe: Recipe
    network: Network
    event_shape: tuple[int, ...]
    models: Models
    step: int
    num_steps: int
    batches: Callable[[int], tuple[Batch, StepDraws]]
    flow: Flow | None
    seed: int
    device: torch.device | str = "cpu"


class ModelMetric(Metric, ABC):
    """A property of the networks and the recipe as they are at one point of training, without samples.

    Recorded as ``diagnostics/<key>``, without a score identity: it describes a training and ranks nothing, so no
    search may be made on it. It changes neither weights nor global generators: a training with it gives the same bits.
    """

    section = "diagnostics"

    @abstractmethod
    def measure(self, subject: Subject) -> dict[str, float]:
        """Values under `keys`; a key is left out where its value is not defined.

        A value that is not finite says that the weights have gone bad, and ends the trial as diverged.
        """


metrics: Registry[Metric] = Registry("metric")
