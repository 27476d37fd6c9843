"""Forward processes: how data turns into noise, and how a network is conditioned on the way.

A process gives noisy = a(sigma) data + b(sigma) noise on levels sigma in [sigma_min, sigma_max], its derivatives, its
grid of levels and its preconditioning. To add one: a frozen dataclass below with `@processes.register("name")`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gcsearch.registry import Component, Registry
from gcsearch.science.preconditioning import Preconditioning, per_example, unit_variance
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

        so that for data + b_min noise as the estimate the marginal at sigma is exact. For the variance-exploding
        process this is estimate + sqrt(sigma^2 - sigma_min^2) noise (CM Algorithm 1).
        """
        to, start = self.coefficients(sigma), self.coefficients(torch.full_like(sigma, self.sigma_min))
        ratio = to.data / start.data
        missing = (to.noise.square() - (ratio * start.noise).square()).clamp_min(0).sqrt()
        return per_example(ratio, estimate) * estimate + per_example(missing, estimate) * noise

    def initial_state(self, noise: Batch) -> Batch:
        """State at sigma_max from which sampling starts: b(sigma_max) noise."""
        sigma = torch.full(noise.shape[:1], self.sigma_max, device=noise.device)
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
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    grid: Tensor = ((low + ramp * (high - low)) ** rho).to(torch.float32)
    grid[0], grid[-1] = sigma_min, sigma_max
    return grid


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


@processes.register("ve")
@dataclass(frozen=True, kw_only=True)
class VarianceExploding(Process):
    """Variance-exploding process of EDM: noisy = data + sigma noise.

    c_skip = sigma_data^2 / ((sigma - sigma_min)^2 + sigma_data^2)
    c_out = sigma_data (sigma - sigma_min) / sqrt(sigma_data^2 + sigma^2)
    c_in = 1 / sqrt(sigma_data^2 + sigma^2), c_noise = ln(sigma) / 4

    Source: CM Appendix C; GC (ICML) Eq. 3. sigma_min is 0.002 as in all released code, not v1's 0.001.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_levels(self.sigma_min, self.sigma_max, self.sigma_data, self.rho)

    def coefficients(self, sigma: PerExample) -> Coefficients:
        one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
        return Coefficients(data=one, noise=sigma, data_derivative=zero, noise_derivative=one)

    def preconditioning(self, sigma: PerExample) -> Preconditioning:
        one = torch.ones_like(sigma)
        return unit_variance(one, sigma, one, sigma - self.sigma_min, sigma.log() / 4, self.sigma_data)


@processes.register("bridge")
@dataclass(frozen=True, kw_only=True)
class Bridge(Process):
    """Bridge of the first GC paper: noisy = (1 - tau) data + tau noise, tau = sigma / (sigma + 1).

    The state is the variance-exploding state divided by 1 + sigma: same flow, same signal-to-noise ratio. What differs
    is the preconditioning, and that is the whole effect of choosing this process:

    - ``ve_on_tau``: the variance-exploding formulas with tau in the place of sigma, as the paper's code computes.
    - ``unit_variance``: the general formula with c_noise = ln(sigma) / 4; up to the boundary this is the
      variance-exploding network again.

    Weights and level proposal remain functions of sigma.

    Source: GC v1 section 5.1 and Appendix B, read through its code (the text's alpha_i = sigma_i / sigma_{i+1} is a
    slip for sigma_i + 1). The boundary sits at tau(sigma_min); the code puts it at tau = sigma_min, 4e-6 off.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0
    conditioning: Literal["ve_on_tau", "unit_variance"] = "ve_on_tau"

    def __post_init__(self) -> None:
        check_levels(self.sigma_min, self.sigma_max, self.sigma_data, self.rho)

    def coefficients(self, sigma: PerExample) -> Coefficients:
        tau, slope = sigma / (1 + sigma), (1 + sigma) ** -2
        return Coefficients(data=1 - tau, noise=tau, data_derivative=-slope, noise_derivative=slope)

    def preconditioning(self, sigma: PerExample) -> Preconditioning:
        tau = sigma / (1 + sigma)
        boundary = tau - _tau_at(self.sigma_min, sigma)
        one = torch.ones_like(tau)
        if self.conditioning == "ve_on_tau":
            return unit_variance(one, tau, one, boundary, tau.log() / 4, self.sigma_data)
        return unit_variance(1 - tau, tau, 1 - boundary, boundary, sigma.log() / 4, self.sigma_data)


def _tau_at(sigma: float, like: Tensor) -> Tensor:
    """tau(sigma), rounded as a tensor of sigmas would be, so that the boundary is exact in every dtype."""
    level = torch.full((), sigma, dtype=like.dtype, device=like.device)
    return level / (1 + level)
