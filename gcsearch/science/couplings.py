"""Couplings: which end point of the flow goes with which noise.

A training pair needs a data point, a noise and two levels. Independent coupling (IC) takes data and noise as they come;
generator-augmented coupling (GC) replaces the data by the model's own prediction. To add one: a frozen dataclass below
with `@couplings.register("name")`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from gcsearch.registry import Component, Registry
from gcsearch.science.process import Process
from gcsearch.science.shapes import Batch, Indices, PerExample

Predictor = Callable[[Batch, PerExample], Batch]
"""Estimate of the data from a state and its level: the consistency function that GC generates end points with."""


@dataclass(frozen=True, kw_only=True)
class EndPoints:
    """End points of a batch of flows: the training states are a(sigma) data + b(sigma) noise."""

    data: Batch
    noise: Batch


class Coupling(Component, ABC):
    """How data and noise are paired."""

    @abstractmethod
    def num_generated(self, batch_size: int, progress: float) -> int:
        """How many examples of a batch get a generated end point at `progress` = step / num_steps."""

    @abstractmethod
    def pair(
        self,
        *,
        data: Batch,
        noise: Batch,
        sigma_lower: PerExample,
        process: Process,
        predictors: dict[str, Predictor],
        selection: Indices,
        progress: float,
    ) -> EndPoints:
        """End points for one batch.

        Args:
            data: Clean examples.
            noise: Source samples.
            sigma_lower: Lower level of each example's pair of levels.
            process: Forward process.
            predictors: Networks that can generate end points, by name: ``ema``, ``online``. Called without gradient.
            selection: Random order of the examples.
            progress: step / num_steps, in [0, 1).

        Returns:
            End points of the same shapes as `data` and `noise`.
        """


couplings: Registry[Coupling] = Registry("coupling")


@couplings.register("independent")
@dataclass(frozen=True, kw_only=True)
class Independent(Coupling):
    """Independent coupling: data and noise as drawn. Source: GC v1 Eq. 6."""

    def num_generated(self, batch_size: int, progress: float) -> int:
        del batch_size, progress
        return 0

    def pair(
        self,
        *,
        data: Batch,
        noise: Batch,
        sigma_lower: PerExample,
        process: Process,
        predictors: dict[str, Predictor],
        selection: Indices,
        progress: float,
    ) -> EndPoints:
        del sigma_lower, process, predictors, selection, progress
        return EndPoints(data=data, noise=noise)


@couplings.register("generator")
@dataclass(frozen=True, kw_only=True)
class Generator(Coupling):
    """Generator-augmented coupling: a share mu of the examples uses the model's prediction as its data.

    x_hat = sg(f-bar(a data + b noise, sigma_lower)), then both training states are built from (x_hat, noise).

    mu = 0 is independent coupling, mu = 1 uses generated end points only. A batch of B examples gets round(mu B) of
    them, drawn without replacement, and the predictor runs on these alone.

    Attributes:
        mu: Probability that an example is generated, in [0, 1], at the start of training.
        mu_end: mu at the end of training, reached linearly between `start` and `end`; None keeps `mu`.
        predictor: Weights that generate: the averaged ones (``ema``) or the current ones (``online``). Both predict
            without dropout.
        start: Fraction of the horizon before which mu is 0.
        end: Fraction of the horizon from which mu is 0 again.

    Source: GC v1 Eq. 7-9 and Algorithm 1; GC (ICML) Eq. 13-15 and 21. mu is the papers' P(GC); the published code's
    ``mix_gen_induced_traj`` is 1 - mu.
    """

    mu: float = 0.5
    mu_end: float | None = None
    predictor: Literal["ema", "online"] = "ema"
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("mu", self.mu), ("mu_end", self.mu_end)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start and end must satisfy 0 <= start < end <= 1, got {self.start} and {self.end}")

    def mixing_rate(self, progress: float) -> float:
        """Mu at `progress` = step / num_steps."""
        if not self.start <= progress < self.end:
            return 0.0
        if self.mu_end is None:
            return self.mu
        return self.mu + (self.mu_end - self.mu) * (progress - self.start) / (self.end - self.start)

    def num_generated(self, batch_size: int, progress: float) -> int:
        return math.floor(self.mixing_rate(progress) * batch_size + 0.5)

    def pair(
        self,
        *,
        data: Batch,
        noise: Batch,
        sigma_lower: PerExample,
        process: Process,
        predictors: dict[str, Predictor],
        selection: Indices,
        progress: float,
    ) -> EndPoints:
        count = self.num_generated(data.shape[0], progress)
        if count == 0:
            return EndPoints(data=data, noise=noise)
        chosen = selection[:count]
        with torch.no_grad():
            sigma = sigma_lower[chosen]
            noisy = process.add_noise(data[chosen], noise[chosen], sigma)
            generated = predictors[self.predictor](noisy, sigma)
        return EndPoints(data=data.index_copy(0, chosen, generated), noise=noise)
