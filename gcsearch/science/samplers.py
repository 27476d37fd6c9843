"""Samplers: from latents to examples, in one or more network evaluations.

To add one: a frozen dataclass below with `@samplers.register("name")`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from gcsearch.registry import Component, Registry
from gcsearch.science.flows import LearnedFlow, solver_step
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.shapes import Batch
from gcsearch.science.trajectories import Trajectory

StageNoise = Callable[[int], Batch]
"""Noise of a stage: 0 gives the latents, stage s the noise added before evaluation s + 1."""


class Sampler(Component, ABC):
    """A way to draw examples from a consistency function.

    Attributes:
        needs_trajectory: Whether it asks for states between levels, which takes a network that is told two.
    """

    needs_trajectory: ClassVar[bool] = False

    @property
    @abstractmethod
    def num_evaluations(self) -> int:
        """Network evaluations per example."""

    @abstractmethod
    def __call__(self, function: ConsistencyFunction, noise: StageNoise) -> Batch:
        """Examples drawn from the noise of each stage; not clipped at the end."""


samplers: Registry[Sampler] = Registry("sampler")


def check_decreasing(levels: tuple[float, ...]) -> None:
    """Reject levels of a sampler that mean nothing."""
    if not levels:
        raise ValueError("levels must not be empty. Use the sampler 'one_step' for a single evaluation")
    if any(later >= earlier for earlier, later in itertools.pairwise(levels)):
        raise ValueError(f"levels must be decreasing, got {list(levels)}")
    if not levels[-1] > 0:
        raise ValueError(f"levels must be > 0, got {list(levels)}")


def _evaluate(function: ConsistencyFunction, state: Batch, sigma: float) -> Batch:
    return function(state, torch.full(state.shape[:1], sigma, dtype=state.dtype, device=state.device))


@samplers.register("one_step")
@dataclass(frozen=True, kw_only=True)
class OneStep(Sampler):
    """One evaluation: f(b(sigma_max) z, sigma_max). Source: CM section 3."""

    @property
    def num_evaluations(self) -> int:
        return 1

    def __call__(self, function: ConsistencyFunction, noise: StageNoise) -> Batch:
        return _evaluate(function, function.process.initial_state(noise(0)), function.process.sigma_max)


@samplers.register("multistep")
@dataclass(frozen=True, kw_only=True)
class Multistep(Sampler):
    """Alternates denoising and re-noising: x <- f(renoise(clip(x), tau), tau) for decreasing tau.

    Attributes:
        levels: Levels tau of the evaluations after the first, decreasing, inside (sigma_min, sigma_max). 0.821 is iCT's
            choice for two steps on CIFAR-10.
        clip: Clip to [-1, 1] between evaluations, as CM's code does for images. Switch off for data beyond that range.

    Source: CM Algorithm 1.
    """

    levels: tuple[float, ...] = (0.821,)
    clip: bool = True

    def __post_init__(self) -> None:
        check_decreasing(self.levels)

    @property
    def num_evaluations(self) -> int:
        return 1 + len(self.levels)

    def __call__(self, function: ConsistencyFunction, noise: StageNoise) -> Batch:
        process = function.process
        state = _evaluate(function, process.initial_state(noise(0)), process.sigma_max)
        for stage, level in enumerate(self.levels, start=1):
            estimate = state.clamp(-1, 1) if self.clip else state
            sigma = torch.full(state.shape[:1], level, dtype=state.dtype, device=state.device)
            state = _evaluate(function, process.renoise(estimate, noise(stage), sigma), level)
        return state


@samplers.register("gamma")
@dataclass(frozen=True, kw_only=True)
class Gamma(Sampler):
    """CTM's sampler, between a solver of the flow (gamma = 0) and multistep consistency sampling (gamma = 1).

    From t_n jump to s = sigma_min + sqrt(1 - gamma^2) (t_{n+1} - sigma_min), add the noise that is missing at t_{n+1};
    the last jump goes to sigma_min. Nothing is clipped. Only for objectives whose network is told two levels (``ctm``).

    Attributes:
        levels: Levels t_n after the first, sigma_max, decreasing, inside (sigma_min, sigma_max).
        gamma: Share of the noise that is fresh, in [0, 1].

    Source: CTM (arXiv:2310.02279) Algorithm 3, with sigma_min as its code has it.
    """

    needs_trajectory: ClassVar[bool] = True

    levels: tuple[float, ...] = (0.821,)
    gamma: float = 0.0

    def __post_init__(self) -> None:
        check_decreasing(self.levels)
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {self.gamma}")

    @property
    def num_evaluations(self) -> int:
        return 1 + len(self.levels)

    def __call__(self, function: ConsistencyFunction, noise: StageNoise) -> Batch:
        if not isinstance(function, Trajectory):
            raise TypeError("the sampler 'gamma' needs a function that is told two levels")
        process, state = function.process, function.process.initial_state(noise(0))
        like = state.new_ones(len(state))
        here = process.sigma_max * like
        for stage, level in enumerate(self.levels, start=1):
            there = process.sigma_min + (1 - self.gamma**2) ** 0.5 * (level - process.sigma_min)
            state = function.jump(state, here, there * like)
            state = process.renoise_from(state, noise(stage), there * like, level * like)
            here = level * like
        return function.jump(state, here, process.sigma_min * like)


@samplers.register("heun")
@dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    """Heun's method along the probability flow of a denoiser, from sigma_max down to sigma_min on the process's grid.

    For networks trained by the objective ``denoising``, which are means of the data and no samples after one
    evaluation. EDM's last step, from sigma_min to 0, is left out: here a network is the identity at sigma_min.

    Attributes:
        num_levels: Levels of the grid, both ends included, at least 2; EDM has 18 on CIFAR-10.

    Source: EDM Algorithm 1 for sigma(t) = t, without the step to 0.
    """

    num_levels: int = 18

    def __post_init__(self) -> None:
        if self.num_levels < 2:
            raise ValueError(f"num_levels must be at least 2, got {self.num_levels}")

    @property
    def num_evaluations(self) -> int:
        return 2 * (self.num_levels - 1)

    def __call__(self, function: ConsistencyFunction, noise: StageNoise) -> Batch:
        process, flow = function.process, LearnedFlow(function)
        state = process.initial_state(noise(0))
        levels = process.grid(self.num_levels).flip(0).to(state)
        for here, there in itertools.pairwise(levels):
            state = solver_step(flow, state, here.expand(len(state)), there.expand(len(state)), "heun")
        return state
