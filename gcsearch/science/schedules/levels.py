"""Which noise levels are drawn. To add a proposal: a frozen dataclass below with `@levels.register("name")`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import torch

from gcsearch.registry import Component, Registry
from gcsearch.science.process import Process, karras_levels
from gcsearch.science.shapes import Grid, PerExample, Probabilities

SQRT_2: Final = math.sqrt(2.0)


class Levels(Component, ABC):
    """Proposal distribution of the noise level, over the intervals of a grid or over all levels of a process."""

    @abstractmethod
    def probabilities(self, grid: Grid) -> Probabilities:
        """Probability of each interval [sigma_i, sigma_{i+1}]; float64, sums to 1."""

    @abstractmethod
    def quantile(self, uniforms: PerExample, process: Process) -> PerExample:
        """Level whose cumulative probability between sigma_min and sigma_max is `uniforms`, each in [0, 1).

        The continuous form of `probabilities`: the share of levels that fall into an interval of a grid tends to its
        probability.
        """


levels: Registry[Levels] = Registry("levels")


def interval_indices(uniforms: PerExample, probabilities: Probabilities) -> torch.Tensor:
    """Interval of each example by the inverse of the cumulative distribution.

    The same uniform number gives corresponding levels on grids of different size, which keeps runs with different
    schedules paired.
    """
    cumulative = probabilities.cumsum(0)
    indices = torch.searchsorted(cumulative, uniforms.to(cumulative.dtype), right=True)
    return indices.clamp_max(probabilities.shape[0] - 1)


@levels.register("lognormal")
@dataclass(frozen=True, kw_only=True)
class Lognormal(Levels):
    """Log-normal density of sigma, cut off at sigma_min and sigma_max; on a grid, integrated over each interval.

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

    def quantile(self, uniforms: PerExample, process: Process) -> PerExample:
        low, high = (
            math.erf((math.log(level) - self.mean) / (SQRT_2 * self.std))
            for level in (process.sigma_min, process.sigma_max)
        )
        position = torch.erfinv(low + uniforms.double() * (high - low))
        sigma = (self.mean + self.std * SQRT_2 * position).exp()
        return sigma.clamp(process.sigma_min, process.sigma_max).to(uniforms.dtype)


@levels.register("uniform")
@dataclass(frozen=True, kw_only=True)
class Uniform(Levels):
    """Every interval of the grid is equally likely (CM); without a grid, every position in sigma^(1/rho)."""

    def probabilities(self, grid: Grid) -> Probabilities:
        num_intervals = grid.shape[0] - 1
        return torch.full((num_intervals,), 1 / num_intervals, dtype=torch.float64, device=grid.device)

    def quantile(self, uniforms: PerExample, process: Process) -> PerExample:
        sigma = karras_levels(uniforms.double(), process.sigma_min, process.sigma_max, process.rho)
        return sigma.to(uniforms.dtype)
