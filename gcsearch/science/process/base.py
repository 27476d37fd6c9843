"""What every forward process is, and the table of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from gcsearch.registry import Component, Registry
from gcsearch.science.preconditioning import Preconditioning, per_example
from gcsearch.science.shapes import Batch, Grid, PerExample


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """Coefficients of noisy = a data + b noise and their derivatives by sigma, one per example."""

    data: PerExample
    noise: PerExample
    data_derivative: PerExample
    noise_derivative: PerExample


class Process(Component, ABC):
    """A forward process.

    Whatever its path, a process takes levels sigma and the fields below, so that a search may swap the name alone.

    Attributes:
        sigma_min: Smallest level, where f is the identity; > 0, in units of the data.
        sigma_max: Largest level, where sampling starts.
        sigma_data: Standard deviation of the data; scales the preconditioning.
        rho: Curvature of the grid; larger puts more levels near sigma_min.
    """

    sigma_min: float
    sigma_max: float
    sigma_data: float
    rho: float

    @abstractmethod
    def coefficients(self, sigma: PerExample) -> Coefficients:
        """a(sigma), b(sigma) and their derivatives."""

    @abstractmethod
    def preconditioning(self, sigma: PerExample) -> Preconditioning:
        """c_skip, c_out, c_in and c_noise, with f(x, sigma_min) = x exactly."""

    def grid(self, num_levels: int) -> Grid:
        """Increasing levels from sigma_min to sigma_max; see `karras_grid`."""
        return karras_grid(num_levels, self.sigma_min, self.sigma_max, self.rho)

    def add_noise(self, data: Batch, noise: Batch, sigma: PerExample) -> Batch:
        """State a(sigma) data + b(sigma) noise."""
        coefficients = self.coefficients(sigma)
        return per_example(coefficients.data, data) * data + per_example(coefficients.noise, data) * noise

    def renoise(self, estimate: Batch, noise: Batch, sigma: PerExample) -> Batch:
        """State at level sigma from an estimate at level sigma_min, adding only the noise that is missing.

        noisy = (a / a_min) estimate + sqrt(b^2 - (a / a_min)^2 b_min^2) noise

        so that for a_min data + b_min noise as the estimate, with normal noise, the marginal at sigma is exact. For the
        variance-exploding process this is estimate + sqrt(sigma^2 - sigma_min^2) noise (CM Algorithm 1).
        """
        return self.renoise_from(estimate, noise, torch.full_like(sigma, self.sigma_min), sigma)

    def renoise_from(self, state: Batch, noise: Batch, sigma_from: PerExample, sigma: PerExample) -> Batch:
        """State at level sigma from one at a lower level, adding only the noise that is missing; see `renoise`."""
        to, start = self.coefficients(sigma), self.coefficients(sigma_from)
        ratio = to.data / start.data
        missing = (to.noise.square() - (ratio * start.noise).square()).clamp_min(0).sqrt()
        return per_example(ratio, state) * state + per_example(missing, state) * noise

    def initial_state(self, noise: Batch) -> Batch:
        """State at sigma_max from which sampling starts: b(sigma_max) noise."""
        sigma = torch.full(noise.shape[:1], self.sigma_max, dtype=noise.dtype, device=noise.device)
        return per_example(self.coefficients(sigma).noise, noise) * noise


def karras_grid(num_levels: int, sigma_min: float, sigma_max: float, rho: float) -> Grid:
    """Increasing noise levels, evenly spaced in sigma^(1/rho), with exact ends.

    sigma_i = (sigma_min^(1/rho) + i / (n - 1) (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho, i = 0 .. n - 1

    Args:
        num_levels: Number n of levels, at least 2; intervals are one less.
        sigma_min: First level.
        sigma_max: Last level.
        rho: Curvature; 7 in all published image experiments.

    Returns:
        float32 tensor of shape (num_levels,).

    Source: EDM Eq. 5, in increasing order as in GC Appendix B.
    """
    ramp = torch.linspace(0, 1, num_levels, dtype=torch.float64)
    grid: Tensor = karras_levels(ramp, sigma_min, sigma_max, rho).to(torch.float32)
    grid[0], grid[-1] = sigma_min, sigma_max
    return grid


def karras_levels(positions: Tensor, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Levels at `positions` in [0, 1] between sigma_min and sigma_max, the continuous form of `karras_grid`."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    levels: Tensor = (low + positions * (high - low)) ** rho
    return levels


def check_levels(sigma_min: float, sigma_max: float, sigma_data: float, rho: float) -> None:
    """Reject levels that mean nothing."""
    if not sigma_min > 0:
        raise ValueError(f"sigma_min must be > 0, got {sigma_min}")
    if not sigma_max > sigma_min:
        raise ValueError(f"sigma_max must be > sigma_min = {sigma_min}, got {sigma_max}")
    if not sigma_data > 0:
        raise ValueError(f"sigma_data must be > 0, got {sigma_data}")
    if not rho > 0:
        raise ValueError(f"rho must be > 0, got {rho}")


processes: Registry[Process] = Registry("process")
