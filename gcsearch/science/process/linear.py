"""Straight paths between data and noise: the interpolation of flow matching, in two parametrisations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from gcsearch.science.preconditioning import Preconditioning, unit_variance
from gcsearch.science.process.base import Coefficients, Process, check_levels, processes
from gcsearch.science.shapes import PerExample


@processes.register("linear")
@dataclass(frozen=True, kw_only=True)
class Linear(Process):
    """Straight path of flow matching: noisy = (1 - u) data + u noise, velocity noise - data.

    The level *is* u: the grid, the proposal of levels and the weights act on u, with the constants they have elsewhere,
    as in the Gaussian experiments of the first GC paper. At u = 1 the state is the noise itself, so the noise may have
    any distribution, such as the source of the data set ``gaussians_2m2m``.

    Orientation: noise sits at u = 1, as in sCM and the GC paper's notebooks. The flow_matching library, FACM and the
    ReFlow paragraph of GC v1 put the *data* at t = 1: t = 1 - u, and velocities by t have the opposite sign.

    - ``ve_on_tau``: the variance-exploding formulas with u in the place of sigma, as the paper's notebooks compute.
    - ``unit_variance``: the general formula with a~ = 1 - (u - u_min) / (1 - u_min), so that c_skip = 0 at u = 1, where
      the state knows nothing of the data. It assumes noise of unit variance.

    Both tell the network ln(u) / 4. `renoise` keeps the marginals exactly for normal noise; for another source it is
    off by O(u_min).

    Attributes:
        sigma_min: Smallest u, > 0.
        sigma_max: Largest u, at most 1. Below 1 sampling starts without the data's share (1 - u) of the state.
        conditioning: Preconditioning, see above.

    Source: GC v1 Appendix B (Gaussians), read through its notebooks: Karras grid with rho = 3 on [0.001, 1]. The text
    swaps data and noise.
    """

    sigma_min: float = 0.001
    sigma_max: float = 1.0
    sigma_data: float = 0.5
    rho: float = 3.0
    conditioning: Literal["ve_on_tau", "unit_variance"] = "ve_on_tau"

    def __post_init__(self) -> None:
        check_levels(self.sigma_min, self.sigma_max, self.sigma_data, self.rho)
        if self.sigma_max > 1:
            raise ValueError(f"sigma_max must be <= 1 for the process 'linear', got {self.sigma_max}")

    def coefficients(self, sigma: PerExample) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(data=1 - sigma, noise=sigma, data_derivative=-one, noise_derivative=one)

    def preconditioning(self, sigma: PerExample) -> Preconditioning:
        boundary, conditioning = sigma - self.sigma_min, sigma.log() / 4
        if self.conditioning == "ve_on_tau":
            one = torch.ones_like(sigma)
            return unit_variance(one, sigma, one, boundary, conditioning, self.sigma_data)
        boundary_data = 1 - boundary / (1 - self.sigma_min)
        return unit_variance(1 - sigma, sigma, boundary_data, boundary, conditioning, self.sigma_data)


@processes.register("conditional_ot")
@dataclass(frozen=True, kw_only=True)
class ConditionalOT(Process):
    """Straight path in noise levels: noisy = (1 - sigma / sigma_max) data + sigma noise.

    The variance-exploding process with the data faded out: at sigma_max the state is pure noise, with no remainder of
    the data. Divided by (1 - sigma / sigma_max) + sigma it is the state of `Linear`; with sigma_max = 1 it is `Linear`.

    c_skip = s~ sigma_data^2 / ((sigma - sigma_min)^2 + s~^2 sigma_data^2), s = 1 - sigma / sigma_max
    c_out = sigma_data (sigma - sigma_min) c_in, s~ = 1 - (sigma - sigma_min) / (sigma_max - sigma_min)
    c_in = 1 / sqrt(s^2 sigma_data^2 + sigma^2), c_noise = ln(sigma) / 4

    Source: the kernel of this name in sony/vct (variational noise coupling, 2025); it is the general unit-variance
    formula with the boundary shifted.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_levels(self.sigma_min, self.sigma_max, self.sigma_data, self.rho)

    def coefficients(self, sigma: PerExample) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(
            data=1 - sigma / self.sigma_max,
            noise=sigma,
            data_derivative=-one / self.sigma_max,
            noise_derivative=one,
        )

    def preconditioning(self, sigma: PerExample) -> Preconditioning:
        boundary = sigma - self.sigma_min
        boundary_data = 1 - boundary / (self.sigma_max - self.sigma_min)
        data = 1 - sigma / self.sigma_max
        return unit_variance(data, sigma, boundary_data, boundary, sigma.log() / 4, self.sigma_data)
