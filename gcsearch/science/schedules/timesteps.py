"""Pairs of neighbouring noise levels over training: how many levels at step k of K, and which pair each example gets.

All are pure functions: the horizon K is the planned length of training, and a run that is stopped early keeps it. To
add one: a frozen dataclass below with `@timesteps.register("name")`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch

from gcsearch.registry import Component, Registry
from gcsearch.science.process import Process
from gcsearch.science.schedules.levels import Levels, interval_indices
from gcsearch.science.shapes import Grid, PerExample, Probabilities

SMALLEST_RATIO: Final = 1.01
"""Smallest ratio of an upper level to sigma_min under a continuous mapping, so that no gap is zero."""


class Timesteps(Component, ABC):
    """Pairs of noise levels that a step compares."""

    @abstractmethod
    def pair(
        self, uniforms: PerExample, process: Process, levels: Levels, step: int, num_steps: int
    ) -> tuple[PerExample, PerExample]:
        """Lower and upper level of each example, sigma_min <= lower < upper <= sigma_max.

        Args:
            uniforms: Uniform numbers in [0, 1); equal ones give corresponding levels under every schedule.
            process: Says which levels there are.
            levels: Proposal distribution.
            step: Steps done, 0-based.
            num_steps: Planned steps.
        """

    @abstractmethod
    def stage(self, step: int, num_steps: int) -> dict[str, float]:
        """Where the curriculum is, by name, for the record; steps of one stage are trained alike."""


timesteps: Registry[Timesteps] = Registry("timesteps")


class GridTimesteps(Timesteps, ABC):
    """Neighbouring levels of a grid of N(k) levels."""

    @abstractmethod
    def levels_at(self, step: int, num_steps: int) -> int:
        """Number of levels at `step` (0-based) of a training of `num_steps`; at least 2."""

    def pair(
        self, uniforms: PerExample, process: Process, levels: Levels, step: int, num_steps: int
    ) -> tuple[PerExample, PerExample]:
        grid, probabilities = _discretisation(process, levels, self.levels_at(step, num_steps), uniforms.device)
        index = interval_indices(uniforms, probabilities)
        return grid.index_select(0, index), grid.index_select(0, index + 1)

    def stage(self, step: int, num_steps: int) -> dict[str, float]:
        return {"num_levels": float(self.levels_at(step, num_steps))}


@lru_cache(maxsize=64)
def _discretisation(
    process: Process, levels: Levels, num_levels: int, device: torch.device
) -> tuple[Grid, Probabilities]:
    """Grid of `num_levels` and the probability of each of its intervals, on `device`; computed once per stage."""
    grid = process.grid(num_levels)
    return grid.to(device), levels.probabilities(grid).to(torch.float32).to(device)


@timesteps.register("fixed")
@dataclass(frozen=True, kw_only=True)
class Fixed(GridTimesteps):
    """The same number of levels throughout: N(k) = num_levels.

    The papers' "fixed N = 20" counts intervals (s0 = s1 = 20) and is ``num_levels: 21`` here.
    """

    num_levels: int = 20

    def __post_init__(self) -> None:
        if self.num_levels < 2:
            raise ValueError(f"num_levels must be at least 2, got {self.num_levels}")

    def levels_at(self, step: int, num_steps: int) -> int:
        del step, num_steps
        return self.num_levels


@timesteps.register("exponential")
@dataclass(frozen=True, kw_only=True)
class Exponential(GridTimesteps):
    """Intervals double from s0 to s1 in stages of equal length.

    N(k) = min(s0 2^floor(k / K'), s1) + 1, K' = floor(K / (log2(floor(s1 / s0)) + 1))

    Attributes:
        s0: Intervals at the start.
        s1: Intervals at the end, at least s0.

    Source: iCT Eq. for N(k); GC v1 Appendix B as its code computes it (floor inside the logarithm).
    """

    s0: int = 10
    s1: int = 1280

    def __post_init__(self) -> None:
        if self.s0 < 1:
            raise ValueError(f"s0 must be at least 1, got {self.s0}")
        if self.s1 < self.s0:
            raise ValueError(f"s1 must be at least s0 = {self.s0}, got {self.s1}")

    def levels_at(self, step: int, num_steps: int) -> int:
        doublings = math.log2(self.s1 // self.s0)
        stage_steps = max(1, math.floor(num_steps / (doublings + 1)))
        # The exponent is capped before the power, so that a short horizon cannot overflow.
        stage = min(step // stage_steps, math.ceil(doublings) + 1)
        return int(min(self.s0 * 2**stage, self.s1)) + 1


@timesteps.register("square_root")
@dataclass(frozen=True, kw_only=True)
class SquareRoot(GridTimesteps):
    """Squared number of levels grows linearly from s0^2 to (s1 + 1)^2.

    N(k) = ceil(sqrt(k / K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1

    Unlike the doubling stages of `Exponential`, the number of levels changes often, and most in the beginning.

    Attributes:
        s0: Levels at the start, at least 2.
        s1: Intervals at the end, at least s0 - 1.

    Source: CM section 6 as its code computes it. CM coupled this schedule to the decay of its target network, which
    is not part of it here.
    """

    s0: int = 2
    s1: int = 150

    def __post_init__(self) -> None:
        if self.s0 < 2:
            raise ValueError(f"s0 must be at least 2, got {self.s0}")
        if self.s1 < self.s0 - 1:
            raise ValueError(f"s1 must be at least s0 - 1 = {self.s0 - 1}, got {self.s1}")

    def levels_at(self, step: int, num_steps: int) -> int:
        # In whole numbers, where no rounding can push a square past the next integer: with q = ceil(N^2), the smallest
        # n with n^2 >= q is isqrt(q - 1) + 1.
        growth = (self.s1 + 1) ** 2 - self.s0**2
        square = self.s0**2 - (-min(step, num_steps) * growth) // num_steps
        return math.isqrt(square - 1) + 1


@timesteps.register("ect")
@dataclass(frozen=True, kw_only=True)
class Continuous(Timesteps):
    """Continuous levels whose gap shrinks in stages: the upper level t is drawn, the lower one is r(t).

    r(t) = t max(0, 1 - n(t) / q^(stage + 1)), n(t) = 1 + k / (1 + exp(b t))

    The stage grows from 0 to num_stages - 1 in parts of equal length. In the early stages r is 0 at small t, where
    consistency training is denoising; here r ends at sigma_min, where f is the identity, instead of 0.

    Attributes:
        q: Factor by which the relative gap shrinks per stage, > 1.
        k: How much larger the gap is at small t, >= 0; 0 makes the ratio r / t the same everywhere.
        b: How fast that fades with t, > 0.
        num_stages: Number of stages, at least 1. ECT's long run has 8 with q = 2, its one-hour run 1 with q = 256.

    Source: ECT section 4 as its code computes it. ECT draws t from the log-normal without bounds and sets r = 0.
    """

    q: float = 2.0
    k: float = 8.0
    b: float = 1.0
    num_stages: int = 8

    def __post_init__(self) -> None:
        if not self.q > 1:
            raise ValueError(f"q must be > 1, got {self.q}")
        if not self.k >= 0:
            raise ValueError(f"k must be >= 0, got {self.k}")
        if not self.b > 0:
            raise ValueError(f"b must be > 0, got {self.b}")
        if self.num_stages < 1:
            raise ValueError(f"num_stages must be at least 1, got {self.num_stages}")
        if self.num_stages * math.log2(self.q) > 20:
            # Beyond 2^20 the levels of a pair are the same float32 number.
            raise ValueError(
                f"q and num_stages must satisfy q^num_stages <= 2^20, got q = {self.q} and num_stages = "
                f"{self.num_stages}"
            )

    def pair(
        self, uniforms: PerExample, process: Process, levels: Levels, step: int, num_steps: int
    ) -> tuple[PerExample, PerExample]:
        upper = levels.quantile(uniforms, process).clamp_min(SMALLEST_RATIO * process.sigma_min)
        share = (1 + self.k * torch.sigmoid(-self.b * upper)) / self.q ** (self._stage(step, num_steps) + 1)
        lower = (upper * (1 - share)).clamp_min(process.sigma_min)
        return lower, upper

    def stage(self, step: int, num_steps: int) -> dict[str, float]:
        return {"stage": float(self._stage(step, num_steps))}

    def _stage(self, step: int, num_steps: int) -> int:
        return min(step * self.num_stages // num_steps, self.num_stages - 1)
