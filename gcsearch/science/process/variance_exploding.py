"""The variance-exploding process, on which all published image experiments of the consistency models run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gcsearch.science.preconditioning import Preconditioning, per_example
from gcsearch.science.process.base import Coefficients, Process, check_levels, processes
from gcsearch.science.shapes import Batch, PerExample


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
        # As `unit_variance`, to the same bits, without its products with ones: of operations on one number per example,
        # only how many there are counts. A number divided by a tensor would be rounded twice, and f not the identity.
        variance, boundary = self.sigma_data**2, sigma - self.sigma_min
        scale = (sigma.square() + variance).rsqrt()
        return Preconditioning(
            skip=torch.full_like(sigma, variance) / (boundary.square() + variance),
            out=boundary * self.sigma_data * scale,
            scale=scale,
            conditioning=sigma.log() / 4,
        )

    def add_noise(self, data: Batch, noise: Batch, sigma: PerExample) -> Batch:
        return data + per_example(sigma, data) * noise
