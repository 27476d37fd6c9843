"""The trigonometric process of sCM."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gcsearch.science.preconditioning import Preconditioning
from gcsearch.science.process.base import Coefficients, Process, check_levels, processes
from gcsearch.science.shapes import PerExample


@processes.register("trig")
@dataclass(frozen=True, kw_only=True)
class TrigFlow(Process):
    """TrigFlow of sCM on noise levels: noisy = cos(t) data + sigma_data sin(t) noise, t = arctan(sigma / sigma_data).

    The state is the variance-exploding one times cos(t): same flow, same signal-to-noise ratio, the same levels sigma,
    and a standard deviation of sigma_data throughout. sCM writes its noise with standard deviation sigma_data; here it
    is standard normal as everywhere else, and the factor sits in b. Derivatives are by sigma, not t.

    f(x, sigma) = cos(t - t_min) x - sin(t - t_min) sigma_data F(x / sigma_data, t)

    with sCM's sign: away from the boundary F estimates v / sigma_data, v = dx / dt. sCM has t_min = 0.

    Attributes:
        sigma_max: Largest level; 80 is t = 1.5645.

    Source: sCM (arXiv:2410.11081) section 3 and Appendix B; the boundary shift is this project's.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_levels(self.sigma_min, self.sigma_max, self.sigma_data, self.rho)

    def coefficients(self, sigma: PerExample) -> Coefficients:
        # cos and sin of an arctangent, without the digits that float32 loses near t = pi / 2.
        cosine = self.sigma_data / (self.sigma_data**2 + sigma.square()).sqrt()
        return Coefficients(
            data=cosine,
            noise=cosine * sigma,
            data_derivative=-sigma * cosine**3 / self.sigma_data**2,
            noise_derivative=cosine**3,
        )

    def preconditioning(self, sigma: PerExample) -> Preconditioning:
        # tan(t - t_min), which is 0 at sigma_min in every dtype.
        tangent = self.sigma_data * (sigma - self.sigma_min) / (self.sigma_data**2 + sigma * self.sigma_min)
        cosine = 1 / (1 + tangent.square()).sqrt()
        return Preconditioning(
            skip=cosine,
            out=-self.sigma_data * tangent * cosine,
            scale=torch.full_like(sigma, 1 / self.sigma_data),
            conditioning=(sigma / self.sigma_data).atan(),
        )
