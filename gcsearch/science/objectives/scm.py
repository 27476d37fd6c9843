"""Continuous-time consistency models: training and distillation in the limit of neighbouring levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from gcsearch.science.networks import Network
from gcsearch.science.networks.song_unet import SongUNet
from gcsearch.science.objectives.base import Models, Recipe, check_slope, flow_ends, objectives
from gcsearch.science.objectives.prepared import PreparedBatch, TensorObjective
from gcsearch.science.optimizers import Adam, Optimizer
from gcsearch.science.preconditioning import ConsistencyFunction, per_example
from gcsearch.science.shapes import Batch, DropoutSeed, PerExample, Scalar
from gcsearch.science.teachers import Teacher

FOURIER_SCALE: Final = 0.02
"""Largest scale of a Fourier embedding whose derivative by time stays small. Source: sCM section 4.1."""


@objectives.register("scm")
@dataclass(frozen=True, kw_only=True)
class ContinuousConsistency(TensorObjective):
    """sCM: the network moves along the tangent of its own consistency function, for the process ``trig``.

    L = mean of e^w(t) / d ||F(x, t) - sg F(x, t) - g||^2 - w(t), with x = cos(t) data + sin(t) sigma_data noise,
    g = -cos^2(t) (sigma_data F - dx/dt) - r cos(t) sin(t) (x + sigma_data dF/dt), normalised as asked

    For r = 1, g is cos(t) df/dt along the path, so that it vanishes for the exact consistency function of a flow that
    dx/dt follows. dF/dt is a forward-mode derivative. r grows linearly from 0 to 1. Where f is shifted so that it is
    the identity at sigma_min, cos and sin in g are those of t - t_min, as in f; sCM has t_min = 0.

    sCT has the path's own dx/dt = cos(t) sigma_data noise - sin(t) data, sCD the teacher's. The level is continuous,
    drawn by the recipe's proposal: sCM's for CIFAR-10 is lognormal with mean -1.0, std 1.4. Timesteps, weighting and
    distance of the recipe are not used. With generated end points the slope is that of the path between them; no
    publication has tried that.

    Attributes:
        slope: ``data`` for sCT, ``teacher`` for sCD.
        teacher: Trained denoiser: the slope, or where the student starts, or both.
        start: Weights of the student: ``teacher``, for which both need the same network, or ``random``.
        normalization: ``rms``: g / (||g|| / sqrt(d) + c). ``l2``: g / (||g|| + c). ``clip``: entries cut off at -1, 1.
        c: Added to the norm, > 0; not used by ``clip``.
        warmup: Share of the training in which r grows, in [0, 1].
        adaptive_weight: Learn w(t), so that every level counts alike; without it w = 0.
        weight_lr: Learning rate of w (Adam).

    Source: sCM (arXiv:2410.11081) Algorithm 1 and section 4.2. The paper writes the plain norm of g; public code
    divides by its root mean square, which is a step sqrt(d) times as long.
    """

    needs_process: ClassVar[str | None] = "trig"

    slope: Literal["data", "teacher"] = "data"
    teacher: Teacher | None = None
    start: Literal["random", "teacher"] = "random"
    normalization: Literal["rms", "l2", "clip"] = "rms"
    c: float = 0.1
    warmup: float = 0.1
    adaptive_weight: bool = True
    weight_lr: float = 1e-3

    def __post_init__(self) -> None:
        check_slope(self.slope, self.teacher, self.starts_from_teacher)
        if not self.c > 0:
            raise ValueError(f"c must be > 0, got {self.c}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must be in [0, 1], got {self.warmup}")
        if not self.weight_lr > 0:
            raise ValueError(f"weight_lr must be > 0, got {self.weight_lr}")

    @property
    def starts_from_teacher(self) -> bool:
        return self.start == "teacher"

    def check_training(self, network: Network, event_shape: tuple[int, ...], num_images: int) -> None:
        del event_shape, num_images
        if isinstance(network, SongUNet) and network.embedding == "fourier" and network.fourier_scale > FOURIER_SCALE:
            raise ValueError(
                f"needs network.fourier_scale of at most {FOURIER_SCALE} with network.embedding=fourier, got "
                f"{network.fourier_scale}: the derivative by time grows with it. Lower it, or take the embedding "
                "positional"
            )

    def companion(self, event_shape: tuple[int, ...]) -> nn.Module | None:
        del event_shape
        return LevelWeight() if self.adaptive_weight else None

    @property
    def companion_optimizer(self) -> Optimizer:
        return Adam(lr=self.weight_lr)

    @property
    def forwards(self) -> int:
        """Forward and derivative count two, forward and backward three, a teacher one."""
        return 5 + (self.slope == "teacher")

    def loss(self, recipe: Recipe, models: Models, batch: PreparedBatch) -> Scalar:
        process, (sigma,) = recipe.process, batch.levels
        ends = batch.end_points(recipe, models)
        noisy = process.add_noise(ends.data, ends.noise, sigma)
        followed = flow_ends(models, ends, noisy, sigma, self.slope)
        coefficients = process.coefficients(sigma)
        # d/dt of cos(t) data + sigma_data sin(t) noise, from the coefficients themselves.
        slope = per_example(process.sigma_data * coefficients.data, noisy) * followed.noise
        slope = slope - per_example(coefficients.noise / process.sigma_data, noisy) * followed.data

        ramp = 1.0 if self.warmup == 0 else (batch.progress / self.warmup).clamp_max(1.0)
        output, tangent = tangents(models.online, noisy, sigma, slope, ramp, batch.dropout_seed)
        target = output + self.normalized(tangent)
        told = process.preconditioning(sigma)
        student = models.online.output(per_example(told.scale, noisy) * noisy, told.conditioning, batch.dropout_seed)
        errors = (student - target).flatten(1).square().mean(1)
        weight = torch.zeros_like(errors) if models.companion is None else models.companion(told.conditioning)
        return (weight.exp() * errors - weight).mean()

    def normalized(self, tangent: Batch) -> Batch:
        """The tangent with a bounded size."""
        if self.normalization == "clip":
            return tangent.clamp(-1, 1)
        norm = tangent.flatten(1).norm(dim=1)
        if self.normalization == "rms":
            norm = norm / math.sqrt(tangent[0].numel())
        return tangent / per_example(norm + self.c, tangent)


def tangents(
    function: ConsistencyFunction,
    noisy: Batch,
    sigma: PerExample,
    slope: Batch,
    ramp: float | Scalar,
    dropout_seed: int | DropoutSeed | None = None,
) -> tuple[Batch, Batch]:
    """Output F of the network, and the tangent g before normalisation; both without gradient.

    Args:
        function: Consistency function under the process ``trig``.
        noisy: State at `sigma`.
        sigma: Level, one per example.
        slope: dx/dt of the path or flow that is followed, t = arctan(sigma / sigma_data).
        ramp: r in [0, 1].
        dropout_seed: Seed of the dropout masks.

    Returns:
        F and g; for r = 1, g = cos(t - t_min) df/dt.

    Source: sCM Eq. 8 and Algorithm 1. The derivative's direction carries the factor cos sin, so that it stays finite.
    """
    sigma_data = function.process.sigma_data
    told = function.process.preconditioning(sigma)
    cosine, sine = per_example(told.skip, noisy), per_example(-told.out / sigma_data, noisy)
    factor = told.skip * (-told.out / sigma_data)
    output, change = function.output_slope(
        (noisy / sigma_data, told.conditioning), (cosine * sine * slope / sigma_data, factor), dropout_seed
    )
    pull = cosine.square() * (sigma_data * output - slope)
    return output, -pull - ramp * (cosine * sine * noisy + sigma_data * change)


class LevelWeight(nn.Module):
    """w(t), a cosine series on [0, pi / 2]; 0 at the start. With e^w the loss is alike at every level when trained.

    Args:
        num: Terms of the series.

    Source: sCM section 4.2; the form of the series is this project's.
    """

    orders: Tensor

    def __init__(self, num: int = 16) -> None:
        super().__init__()
        self.register_buffer("orders", 2.0 * torch.arange(num), persistent=False)
        self.factors = nn.Parameter(torch.zeros(num))

    def forward(self, time: PerExample) -> PerExample:
        """Logarithm of the weight at t in [0, pi / 2]."""
        weight: Tensor = (time[:, None] * self.orders).cos() @ self.factors
        return weight
