"""The bridge of the first GC paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gcsearch.science.preconditioning import Preconditioning, unit_variance
from gcsearch.science.process.base import Coefficients, Process, check_levels, processes
from gcsearch.science.shapes import PerExample


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
