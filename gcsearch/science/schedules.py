"""Discretisation over training, which levels are drawn, and how their loss is weighted.

Three kinds: `Timesteps` (how many levels at step k of K), `Levels` (probability of each interval of the grid) and
`Weighting` (weight of an interval). All are pure functions: the horizon K is the planned length of training, and a run
that is stopped early keeps it. To add one: a frozen dataclass with the kind's `register("name")`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from gcsearch.registry import Component, Registry
from gcsearch.science.shapes import Grid, PerExample, Probabilities

SQRT_2 = math.sqrt(2.0)


class Timesteps(Component, ABC):
    """Number of noise levels N(k) over training."""

    @abstractmethod
    def levels_at(self, step: int, num_steps: int) -> int:
        """Number of levels at `step` (0-based) of a training of `num_steps`; at least 2."""


class Levels(Component, ABC):
    """Proposal distribution over the intervals of a grid."""

    @abstractmethod
    def probabilities(self, grid: Grid) -> Probabilities:
        """Probability of each interval [sigma_i, sigma_{i+1}]; float64, sums to 1."""


class Weighting(Component, ABC):
    """Weight lambda of an interval in the loss."""

    @abstractmethod
    def weight(self, sigma_lower: PerExample, sigma_upper: PerExample) -> PerExample:
        """One weight per example, > 0."""


def interval_indices(uniforms: PerExample, probabilities: Probabilities) -> torch.Tensor:
    """Interval of each example by the inverse of the cumulative distribution.

    The same uniform number gives corresponding levels on grids of different size, which keeps runs with different
    schedules paired.
    """
    cumulative = probabilities.cumsum(0)
    indices = torch.searchsorted(cumulative, uniforms.to(cumulative.dtype), right=True)
    return indices.clamp_max(probabilities.shape[0] - 1)


timesteps: Registry[Timesteps] = Registry("timesteps")
levels: Registry[Levels] = Registry("levels")


@timesteps.register("fixed")
@dataclass(frozen=True, kw_only=True)
class Fixed(Timesteps):
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
class Exponential(Timesteps):
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
class SquareRoot(Timesteps):
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


@levels.register("lognormal")
@dataclass(frozen=True, kw_only=True)
class Lognormal(Levels):
    """Log-normal density of sigma, integrated over each interval of the grid.

    p(i) ~ erf((ln sigma_{i+1} - mean) / (sqrt(2) std)) - erf((ln sigma_i - mean) / (sqrt(2) std))

    Attributes:
        mean: Mean of ln sigma.
        std: Standard deviation of ln sigma.

    Source: iCT section 3.5; GC v1 Appendix B.
    """

    mean: float = -1.1
    std: float = 2.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be > 0, got {self.std}")

    def probabilities(self, grid: Grid) -> Probabilities:
        cumulative = torch.erf((grid.double().log() - self.mean) / (SQRT_2 * self.std))
        mass = cumulative.diff()
        return mass / mass.sum()


@levels.register("uniform")
@dataclass(frozen=True, kw_only=True)
class Uniform(Levels):
    """Every interval of the grid is equally likely (CM)."""

    def probabilities(self, grid: Grid) -> Probabilities:
        num_intervals = grid.shape[0] - 1
        return torch.full((num_intervals,), 1 / num_intervals, dtype=torch.float64, device=grid.device)


weightings: Registry[Weighting] = Registry("weighting")


@weightings.register("inverse_gap")
@dataclass(frozen=True, kw_only=True)
class InverseGap(Weighting):
    """lambda = 1 / (sigma_upper - sigma_lower). Source: iCT section 3.1; GC v1 Appendix B.

    Its mean grows with N (8 at N = 11, 1129 at N = 1281), so losses of different stages are not comparable.
    """

    def weight(self, sigma_lower: PerExample, sigma_upper: PerExample) -> PerExample:
        return 1 / (sigma_upper - sigma_lower)


@weightings.register("uniform")
@dataclass(frozen=True, kw_only=True)
class Unweighted(Weighting):
    """lambda = 1 (CM)."""

    def weight(self, sigma_lower: PerExample, sigma_upper: PerExample) -> PerExample:
        del sigma_upper
        return torch.ones_like(sigma_lower)
