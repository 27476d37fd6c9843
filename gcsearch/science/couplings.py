"""Couplings: which end point of the flow goes with which noise.

A training pair needs a data point, a noise and two levels. Independent coupling (IC) takes data and noise as they come;
minibatch optimal transport (OT) exchanges the noises of a batch; generator-augmented coupling (GC) replaces the data by
the model's own prediction. To add one: a frozen dataclass below with `@couplings.register("name")`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from gcsearch.files import model_file
from gcsearch.registry import Component, Registry
from gcsearch.science.ema import EMA
from gcsearch.science.process import Process
from gcsearch.science.randomness import WHOLE, Share
from gcsearch.science.shapes import Batch, Indices, PerExample, Rows

Predictor = Callable[[Batch, PerExample], Batch]
"""Estimate of the data from a state and its level: the consistency function that GC generates end points with.

It is given no dropout seed, so it always predicts without dropout, whichever weights it has, and networks have no train
or eval mode that could change this. The published code's averaged predictor had dropout until the first evaluation and
none after; its online predictor had it always, with a mask of its own.
"""


@dataclass(frozen=True, kw_only=True)
class Unpaired:
    """What a coupling pairs: one batch, and what end points can be generated with.

    Attributes:
        data: Clean examples.
        noise: Source samples, as `Coupling.arrange` has left them.
        chosen: The examples that get a generated end point: `Coupling.chosen`.
        sigma_lower: Lower level of each example's pair of levels.
        process: Forward process.
        predictors: Networks that can generate end points, by name: ``ema``, ``online`` and, where the recipe asks for
            one, ``frozen``. Called without gradient and without dropout.
    """

    data: Batch
    noise: Batch
    chosen: Rows
    sigma_lower: PerExample
    process: Process
    predictors: dict[str, Predictor]


@dataclass(frozen=True, kw_only=True)
class EndPoints:
    """End points of a batch of flows: the training states are a(sigma) data + b(sigma) noise."""

    data: Batch
    noise: Batch


class Coupling(Component, ABC):
    """How data and noise are paired.

    What depends on the number of the step is settled before, by `arrange` and `chosen`, so that `pair` is a function of
    tensors alone: a compiled step holds it in its graph.
    """

    @abstractmethod
    def num_generated(self, batch_size: int, progress: float) -> int:
        """How many examples of a batch get a generated end point at `progress` = step / num_steps."""

    def arrange(self, data: Batch, noise: Batch) -> Batch:
        """The noise that goes with each example, where a coupling exchanges noises; here they stay as drawn.

        Several processes that share a batch call this for the whole of it before each takes its part, so that the pairs
        are those of one process. Each then arranges its part again, which must leave it as it is: a coupling that
        compares examples with each other has to do so here.
        """
        del data
        return noise

    def chosen(self, selection: Indices, progress: float, share: Share = WHOLE) -> Rows:
        """The examples of a batch, or of a share of one, that get a generated end point.

        Args:
            selection: Random order of the examples, of which the first ones are taken.
            progress: step / num_steps, in [0, 1).
            share: Which part of a batch this is, if several processes treat it.
        """
        return selection[: share.of(self.num_generated(selection.shape[0] * share.count, progress))]

    @abstractmethod
    def pair(self, batch: Unpaired) -> EndPoints:
        """End points for one batch, of the shapes of its data and noise."""


couplings: Registry[Coupling] = Registry("coupling")


@couplings.register("independent")
@dataclass(frozen=True, kw_only=True)
class Independent(Coupling):
    """Independent coupling: data and noise as drawn. Source: GC v1 Eq. 6."""

    def num_generated(self, batch_size: int, progress: float) -> int:
        del batch_size, progress
        return 0

    def pair(self, batch: Unpaired) -> EndPoints:
        return EndPoints(data=batch.data, noise=batch.noise)


def optimal_permutation(data: Batch, noise: Batch) -> Indices:
    """Permutation pi that minimises the sum over the batch of ||x_b - z_pi(b)||^2, exactly.

    Only the inner products -2 <x_b, z_pi(b)> depend on pi, so they are all that is assigned. The cost of a level,
    ||a x - b z||^2, has the same products times a b > 0: one permutation is optimal at every level of every process.
    """
    from scipy.optimize import linear_sum_assignment  # a fifth of the time that importing the science would take

    products = data.detach().flatten(1).double() @ noise.detach().flatten(1).double().T
    _, columns = linear_sum_assignment(products.cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).to(data.device)


@couplings.register("ot")
@dataclass(frozen=True, kw_only=True)
class OptimalTransport(Coupling):
    """Minibatch optimal transport: the noises of a batch are exchanged so that pairs are close.

    pi = argmin over permutations of the sum over b of ||x_b - z_pi(b)||^2

    The optimum does not depend on the noise scale because the cost is squared (with plain Euclidean distance it would),
    so one assignment per batch serves every level. Noises are permuted and never repeated or dropped, so their
    distribution is untouched. Processes that share a batch each assign all of it, so that the pairs do not depend on
    how many there are; a part of an optimal assignment is optimal, so `arrange` leaves it as it is.

    The assignment is exact, in float64. It takes one CPU core about 1, 2, 24 and 120 ms for B = 128, 256, 512 and 1024,
    O(B^3); on a CPU the inner products of 32 x 32 colour images come on top, with 3, 23, 110 and 400 ms. There is no
    Sinkhorn variant: it is approximate, adds a regularisation to tune, and gives a plan from which pairs must be
    sampled, where the exact permutation costs less than a training step at any batch size in use.

    Source: the OT baseline of both GC papers, whose training code is not released. The released helper (unused) assigns
    by the distance that is not squared, with costs cut to integers.
    """

    def num_generated(self, batch_size: int, progress: float) -> int:
        del batch_size, progress
        return 0

    def arrange(self, data: Batch, noise: Batch) -> Batch:
        return noise[optimal_permutation(data, noise)]

    def pair(self, batch: Unpaired) -> EndPoints:
        return EndPoints(data=batch.data, noise=batch.noise)


@couplings.register("generator")
@dataclass(frozen=True, kw_only=True)
class Generator(Coupling):
    """Generator-augmented coupling: a share mu of the examples uses the model's prediction as its data.

    x_hat = sg(f-bar(a data + b noise, sigma_lower)), then both training states are built from (x_hat, noise).

    mu = 0 is independent coupling, mu = 1 uses generated end points only. A batch of B examples gets round(mu B) of
    them, drawn without replacement, and the predictor runs on these alone, without dropout and without gradient (see
    `Predictor`).

    Attributes:
        mu: Probability that an example is generated, in [0, 1], at the start of training.
        mu_end: mu at the end of training, reached linearly between `start` and `end`; None keeps `mu`.
        predictor: Weights that generate: averaged (``ema``), current (``online``), or those of another training that
            stay as they are (``frozen``).
        predictor_ema: Average that the predictor ``ema`` uses, given as one EMA rule. Empty: the average that is
            evaluated (the section `ema`), as published. A long average lags behind a short training, and as predictor
            it would generate from early weights.
        checkpoint: File of the frozen predictor, a checkpoint or an export of gcsearch, of which the averaged weights
            are taken. Its data must have the same shape and its process must be the same. For ``frozen`` only.
        base: Coupling that data and noise get before any end point is generated: ``independent``, or ``ot`` (see
            `OptimalTransport`).
        clamp: Clip generated end points to [-1, 1], the range of images. Not in the papers.
        start: Fraction of the horizon before which mu is 0.
        end: Fraction of the horizon from which mu is 0 again.

    Source: GC v1 Eq. 7-9 and Algorithm 1; GC (ICML) Eq. 13-15 and 21. mu is the papers' P(GC); the published code's
    ``mix_gen_induced_traj`` is 1 - mu. A frozen predictor is GC (ICML) section 5.1. GC over OT is reported by nobody.
    """

    mu: float = 0.5
    mu_end: float | None = None
    predictor: Literal["ema", "online", "frozen"] = "ema"
    predictor_ema: tuple[EMA, ...] = ()
    checkpoint: str | None = None
    base: Literal["independent", "ot"] = "independent"
    clamp: bool = False
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("mu", self.mu), ("mu_end", self.mu_end)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start and end must satisfy 0 <= start < end <= 1, got {self.start} and {self.end}")
        if self.predictor == "frozen" and not self.checkpoint:
            raise ValueError(f"checkpoint must name a file if predictor is 'frozen', got {self.checkpoint!r}")
        if self.predictor != "frozen" and self.checkpoint is not None:
            raise ValueError(
                f"checkpoint must be left out unless predictor is 'frozen', got {self.checkpoint!r} and predictor "
                f"{self.predictor!r}"
            )
        if len(self.predictor_ema) > 1:
            raise ValueError(f"predictor_ema must be one average, got {len(self.predictor_ema)}")
        if self.predictor_ema and self.predictor != "ema":
            raise ValueError(
                f"predictor_ema must be left out unless predictor is 'ema', got predictor {self.predictor!r}"
            )

    def files(self) -> dict[str, Path]:
        return {} if self.checkpoint is None else {self.checkpoint: model_file(Path(self.checkpoint))}

    def mixing_rate(self, progress: float) -> float:
        """Mu at `progress` = step / num_steps."""
        if not self.start <= progress < self.end:
            return 0.0
        if self.mu_end is None:
            return self.mu
        return self.mu + (self.mu_end - self.mu) * (progress - self.start) / (self.end - self.start)

    def num_generated(self, batch_size: int, progress: float) -> int:
        return math.floor(self.mixing_rate(progress) * batch_size + 0.5)

    def arrange(self, data: Batch, noise: Batch) -> Batch:
        return noise[optimal_permutation(data, noise)] if self.base == "ot" else noise

    def pair(self, batch: Unpaired) -> EndPoints:
        data, noise, chosen = batch.data, batch.noise, batch.chosen
        if chosen.shape[0] == 0:
            return EndPoints(data=data, noise=noise)
        with torch.no_grad():
            # `index_select` costs less than indexing.
            own_data, own_noise, sigma = (part.index_select(0, chosen) for part in (data, noise, batch.sigma_lower))
            noisy = batch.process.add_noise(own_data, own_noise, sigma)
            generated = batch.predictors[self.predictor](noisy, sigma)
            if self.clamp:
                generated = generated.clamp(-1, 1)
        return EndPoints(data=data.index_copy(0, chosen, generated), noise=noise)
