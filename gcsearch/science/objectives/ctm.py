"""Consistency trajectory models: the student jumps between any two levels of the teacher's flow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gcsearch.science.discriminators import Discriminator, taken_for_real, told_apart
from gcsearch.science.flows import LearnedFlow, solver_step
from gcsearch.science.networks import Network
from gcsearch.science.objectives.base import (
    LossTerms,
    Models,
    Objective,
    Recipe,
    end_points,
    mean_loss,
    num_generated,
    objectives,
)
from gcsearch.science.optimizers import Optimizer
from gcsearch.science.process import Process
from gcsearch.science.randomness import StepDraws
from gcsearch.science.shapes import Batch, Grid, Indices, PerExample, Scalar
from gcsearch.science.teachers import Teacher, Trained
from gcsearch.science.trajectories import TrajectoryFunction


@objectives.register("ctm")
@dataclass(frozen=True, kw_only=True)
class ConsistencyTrajectory(Objective):
    """CTM: soft consistency along a teacher's flow, denoising score matching, and, if asked for, an adversarial term.

    L = mean of D(G'(G(x_t, t, s), s, sigma_min), G'(sg G(x_u, u, s), s, sigma_min))
        + lambda mean of w ||x - g(x_r, r, r)||^2 / d - lambda_a mean of h(G'(G(x_t, t, s), s, sigma_min))

    t > u >= s are levels of a grid, x_u is the teacher's ODE solution from x_t after k of the grid's steps, k drawn
    with probability ~ k, t and s uniformly where that leaves room. G' has averaged weights. The second term makes
    g(x, t, t) a denoiser; its level r comes from the recipe's proposal, w is that of the objective ``denoising``.
    lambda is `denoising` times the ratio of the norms of the first two terms' gradients at the network's last weight.

    The discriminator h is trained in the same step, by an optimizer of its own, to tell the data from what the student
    makes of x_t: max(0, 1 - h) + max(0, 1 + h). lambda_a is `adversarial` times the ratio of the norms of the first and
    the last term's gradients at the last weight, the ratio cut off at 0.01 and 10. Without a discriminator, with
    `adversarial` 0 and in the first `adversarial_after` images there is no such term.

    A network is told two levels, so it can be sampled by ``gamma`` too; one-step and multistep samplers take
    s = sigma_min. Distance and proposal are the recipe's; its timesteps and weighting are not used. The process must
    leave some of the data at sigma_max: ``ve``, ``bridge`` or ``trig``.

    Attributes:
        teacher: Trained denoiser whose flow is followed.
        start: Weights of the student: ``teacher``, for which both need the same network, or ``random``. The layers for
            the second level start without effect.
        num_levels: Levels of the grid, at least 2.
        solver_steps: Largest k, from 1 to num_levels - 1.
        denoising: Factor of lambda, >= 0; 0 leaves soft consistency alone.
        target_ema: Decay per step of the averaged weights of G', in [0, 1).
        discriminator: h; null leaves the adversarial term out.
        adversarial: Factor of lambda_a, >= 0.
        adversarial_after: Images before the adversarial term sets in, >= 0. CTM: 10,000 to 50,000 steps.

    Source: CTM (arXiv:2310.02279) Algorithm 1 and its code. That code draws one k for the whole batch, and its r from a
    mixture; student and discriminator take turns there, step by step.
    """

    needs_whole_batch: ClassVar[bool] = True
    trains_trajectory: ClassVar[bool] = True

    teacher: Teacher = field(default_factory=Trained)
    start: Literal["teacher", "random"] = "teacher"
    num_levels: int = 18
    solver_steps: int = 17
    denoising: float = 1.0
    target_ema: float = 0.999
    discriminator: Discriminator | None = None
    adversarial: float = 1.0
    adversarial_after: int = 128_000

    def __post_init__(self) -> None:
        if self.num_levels < 2:
            raise ValueError(f"num_levels must be at least 2, got {self.num_levels}")
        if not 1 <= self.solver_steps < self.num_levels:
            raise ValueError(f"solver_steps must be from 1 to num_levels - 1, got {self.solver_steps}")
        if not self.denoising >= 0:
            raise ValueError(f"denoising must be >= 0, got {self.denoising}")
        if not 0 <= self.target_ema < 1:
            raise ValueError(f"target_ema must be in [0, 1), got {self.target_ema}")
        for name in ("adversarial", "adversarial_after"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")

    @property
    def rival(self) -> Discriminator | None:
        """The discriminator, if it has a say."""
        return self.discriminator if self.adversarial > 0 else None

    def companion(self, event_shape: tuple[int, ...]) -> nn.Module | None:
        return None if self.rival is None else self.rival.build(event_shape)

    @property
    def companion_optimizer(self) -> Optimizer:
        return super().companion_optimizer if self.rival is None else self.rival.optimizer

    def check_training(self, network: Network, event_shape: tuple[int, ...], num_images: int) -> None:
        del network
        if self.rival is None:
            return
        try:
            self.rival.check(event_shape)
        except ValueError as error:
            raise ValueError(f"has the discriminator '{self.rival.name}', which {error}") from None
        if self.adversarial_after >= num_images:
            raise ValueError(
                f"must have adversarial_after below training.num_images = {num_images}, got {self.adversarial_after}. "
                "Its discriminator would never be used"
            )

    @property
    def starts_from_teacher(self) -> bool:
        return self.start == "teacher"

    @property
    def keeps_target(self) -> bool:
        return True

    def target_decay(self, recipe: Recipe, step: int, num_steps: int) -> float:
        del recipe, step, num_steps
        return self.target_ema

    @property
    def num_conditions(self) -> int:
        return 2

    def function(self, network: nn.Module, process: Process, precision: str = "fp32") -> TrajectoryFunction:
        return TrajectoryFunction(network, process, precision)

    def check(self, recipe: Recipe) -> None:
        process = recipe.process
        if not process.coefficients(torch.tensor([process.sigma_max])).data.item() > 0:
            raise ValueError(
                f"needs a process that leaves some of the data at sigma_max, got '{process.name}'. Set process.name=ve"
            )

    def __call__(
        self, recipe: Recipe, models: Models, data: Batch, draws: StepDraws, step: int, num_steps: int
    ) -> LossTerms:
        if models.teacher is None or models.target is None:
            raise TypeError("ctm needs Models.teacher and Models.target")
        function, target = models.online, models.target
        assert isinstance(function, TrajectoryFunction)
        assert isinstance(target, TrajectoryFunction)
        process, progress, seed = recipe.process, step / num_steps, draws.dropout_seed
        grid = process.grid(self.num_levels).to(draws.level_uniforms)
        upper, steps, lower, rest = self.indices(draws.level_uniforms)
        ends = end_points(recipe, models, data, draws, grid[upper - steps], progress)
        noisy = process.add_noise(ends.data, ends.noise, grid[upper])
        with torch.no_grad():
            solved = follow(LearnedFlow(models.teacher), noisy, grid, upper, steps)
            jumped = function.jump(solved, grid[upper - steps], grid[lower], seed)
            goal = target(jumped, grid[lower])
        reached = target(function.jump(noisy, grid[upper], grid[lower], seed), grid[lower])
        consistency = mean_loss(recipe.distance(reached, goal), torch.ones_like(rest))

        batch_size = data.shape[0]
        # The student's forward and backward, its jump from the solved state, and two jumps of the target, one of which
        # passes a gradient on.
        units = 3 + 1 + 3 + round(2 * self.mean_steps)
        further: list[tuple[float, Scalar, tuple[float, float]]] = []  # factor, term, bounds of the ratio of norms
        beside = None
        if self.denoising > 0:
            score = self.denoised(recipe, function, ends.data, ends.noise, rest, draws)
            further.append((self.denoising, score, (0, math.inf)))
            units += 3
        if self.rival is not None and step * batch_size >= self.adversarial_after:
            if models.companion is None:
                raise TypeError("ctm with a discriminator needs Models.companion")
            further.append((self.adversarial, taken_for_real(models.companion, reached), (0.01, 10)))
            beside = told_apart(models.companion, data, reached)
            # The gradient at the last weight comes through the target once more. The discriminator: forward and
            # backward of data and samples, then a forward whose gradient passes twice, to that weight and to all.
            units += 1 + (3 + 3) + 3
        loss = consistency
        if further:
            units += 1  # the gradient of the consistency loss at the last weight, through the target
            last: Tensor = function.network.output_weight  # type: ignore[assignment]  # see `Network`
            size = gradient_norm(consistency, last)
            for factor, term, bounds in further:
                loss = loss + factor * balance(size, term, last).clamp(*bounds) * term
        return LossTerms(
            loss=loss,
            forward_units=units * batch_size + num_generated(recipe, draws, batch_size, progress),
            beside=beside,
        )

    @property
    def mean_steps(self) -> float:
        """Mean number of the solver's steps, of p(k) ~ k: (2 K + 1) / 3."""
        return (2 * self.solver_steps + 1) / 3

    def indices(self, uniforms: PerExample) -> tuple[Indices, Indices, Indices, PerExample]:
        """Grid index of t, number k of the solver's steps, grid index of s; and the uniform numbers that are left.

        A uniform number in one of n equal cells is uniform inside it, so each draw leaves one for the next.
        """
        last = self.num_levels - 1
        numbers = uniforms.double()
        weights = torch.arange(1, self.solver_steps + 1, dtype=numbers.dtype, device=numbers.device)
        edges = torch.cat([weights.new_zeros(1), (weights.cumsum(0) / weights.sum())])
        steps = (torch.searchsorted(edges, numbers, right=True)).clamp(1, self.solver_steps)
        numbers = (numbers - edges[steps - 1]) / (edges[steps] - edges[steps - 1])
        upper, numbers = split(numbers, last - steps + 1)
        upper = upper + steps
        lower, numbers = split(numbers, upper - steps + 1)
        return upper, steps, lower, numbers.to(uniforms.dtype)

    def denoised(
        self,
        recipe: Recipe,
        function: TrajectoryFunction,
        data: Batch,
        noise: Batch,
        uniforms: PerExample,
        draws: StepDraws,
    ) -> Scalar:
        """The denoising term, at a level of its own."""
        process = recipe.process
        sigma = recipe.levels.quantile(uniforms, process)
        noisy = process.add_noise(data, noise, sigma)
        errors = function.estimate(noisy, sigma, sigma, draws.dropout_seed) - data
        level, variance = process.coefficients(sigma), process.sigma_data**2
        weight = (level.data.square() * variance + level.noise.square()) / (level.noise.square() * variance)
        return mean_loss(errors.flatten(1).square().mean(1), weight)


def split(uniforms: Tensor, counts: Indices) -> tuple[Indices, Tensor]:
    """A whole number below `counts` from each uniform number, and a uniform number that is independent of it."""
    scaled = uniforms.clamp(0, 1 - 1e-12) * counts
    index = scaled.floor()
    return index.long(), scaled - index


def follow(flow: LearnedFlow, noisy: Batch, grid: Grid, start: Indices, steps: Indices) -> Batch:
    """State after `steps` steps of Heun's method down the grid, from `noisy` at index `start`; each example its own."""
    state = noisy
    for number in range(int(steps.max())):
        rows = (steps > number).nonzero()[:, 0]
        here = start[rows] - number
        moved = solver_step(flow, state[rows], grid[here], grid[here - 1], "heun")
        state = state.index_copy(0, rows, moved)
    return state


def gradient_norm(loss: Scalar, weight: Tensor) -> Scalar:
    """Norm of a loss's gradient at one weight, itself without gradient."""
    (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
    norm: Tensor = gradient.norm()
    return norm


def balance(size: Scalar, other: Scalar, weight: Tensor) -> Scalar:
    """Factor that gives the gradient of `other` at one weight the norm `size`, itself without gradient.

    Source: CTM's code, after VQGAN; 1e-4 is added to the denominator.
    """
    return size / (gradient_norm(other, weight) + 1e-4)
