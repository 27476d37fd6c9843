"""Closed forms that stand in for a trained network, so that the science can be tested without training.

For Gaussian data and mixtures of Gaussians under noisy = data + sigma noise, with standard normal noise: the denoiser,
score and flow that training estimates, and for a single Gaussian the consistency map itself. Every function takes the
dtype of its input; use float64 for tight comparisons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gcsearch.science.preconditioning import ConsistencyFunction, per_example
from gcsearch.science.process import Process
from gcsearch.science.shapes import Batch, PerExample


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianMixture:
    """Data distribution sum_k pi_k N(m_k, std^2 I), seen through the variance-exploding process.

    A single Gaussian is a mixture of one mode. At level sigma each mode is N(m_k, (std^2 + sigma^2) I).

    Attributes:
        means: Modes m_k, shape (K, *event).
        std: Standard deviation of every mode; 0 makes the data K points.
        probabilities: Weights pi_k, shape (K,), positive and summing to 1; None weighs the modes equally.

    Source: own derivation from Bayes' rule, as are all formulas of this class.
    """

    means: Tensor
    std: float
    probabilities: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """Probabilities of the modes, shape (K,)."""
        num_modes = len(self.means)
        return torch.full((num_modes,), 1 / num_modes) if self.probabilities is None else self.probabilities

    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """Data points, shape (num, *event), in the dtype of `means`."""
        mode = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        spread = torch.randn(num, *self.means.shape[1:], generator=generator, dtype=self.means.dtype)
        return self.means[mode] + self.std * spread

    def log_joint(self, noisy: Batch, sigma: PerExample) -> Tensor:
        """Logarithm of pi_k N(noisy; m_k, (std^2 + sigma^2) I), shape (B, K)."""
        offsets = (noisy[:, None] - self.means.to(noisy)).flatten(2)
        variance = (self.std**2 + sigma.square())[:, None]
        normalisation = offsets.shape[2] / 2 * (2 * math.pi * variance).log()
        return self.weights.to(noisy).log() - offsets.square().sum(2) / (2 * variance) - normalisation

    def log_density(self, noisy: Batch, sigma: PerExample) -> PerExample:
        """Logarithm of p_sigma(noisy)."""
        return self.log_joint(noisy, sigma).logsumexp(1)

    def denoised(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Mean of the data given the state.

        D(x, sigma) = sum_k r_k [m_k + std^2 / (std^2 + sigma^2) (x - m_k)], r_k ~ pi_k N(x; m_k, (std^2 + sigma^2) I)
        """
        responsibility = self.log_joint(noisy, sigma).softmax(1)
        mode = torch.einsum("bk,k...->b...", responsibility, self.means.to(noisy))
        shrinkage = self.std**2 / (self.std**2 + sigma.square())
        return mode + per_example(shrinkage, noisy) * (noisy - mode)

    def score(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Gradient of `log_density` by the state: (D(x, sigma) - x) / sigma^2."""
        return (self.denoised(noisy, sigma) - noisy) / per_example(sigma.square(), noisy)

    def velocity(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Slope of the probability-flow ODE, dx / dsigma = (x - D(x, sigma)) / sigma, which is E[noise | x]."""
        return (noisy - self.denoised(noisy, sigma)) / per_example(sigma, noisy)


class ExactConsistency(ConsistencyFunction):
    """Exact consistency function of data N(mean, std^2 I), for use in the place of a trained one.

    For noisy = data + sigma noise: f(x, sigma) = mean + sqrt((std^2 + sigma_min^2) / (std^2 + sigma^2)) (x - mean).

    Any other process is this one rescaled: x / a(sigma) is a variance-exploding state at level b(sigma) / a(sigma), and
    the result is scaled back by a(sigma_min).

    Args:
        process: Forward process with a(sigma) > 0.
        mean: Mean of the data, shape (*event,).
        std: Standard deviation of the data; with 0 all states of one noise map to one point.

    Source: own derivation; the flow of a Gaussian keeps (x - mean) / sqrt(std^2 + sigma^2) constant.
    """

    def __init__(self, process: Process, mean: Tensor, std: float) -> None:
        super().__init__(torch.nn.Identity(), process)
        self.mean = mean
        self.std = std

    def __call__(self, noisy: Batch, sigma: PerExample, dropout_seed: int | None = None) -> Batch:
        """End of the flow through `noisy`; equal to `noisy` at sigma_min."""
        del dropout_seed
        here = self.process.coefficients(sigma)
        end = self.process.coefficients(torch.full_like(sigma, self.process.sigma_min))
        slope = contraction(here.noise / here.data, self.std, end.noise / end.data)
        kept, pulled = slope * end.data / here.data, (1 - slope) * end.data
        return per_example(kept, noisy) * noisy + per_example(pulled, noisy) * self.mean.to(noisy)


def contraction(sigma: PerExample, std: float, sigma_min: PerExample | float = 0.0) -> PerExample:
    """Slope of the exact map of a Gaussian under the variance-exploding process, f(x, sigma) = mean + k (x - mean).

    k(sigma) = sqrt((std^2 + sigma_min^2) / (std^2 + sigma^2))
    """
    return ((std**2 + sigma_min**2) / (std**2 + sigma.square())).sqrt()


def transport_cost(sigma: PerExample, mean: Tensor, std: float, sigma_min: float = 0.0) -> PerExample:
    """Mean squared distance between a generated end point and its noise, c(sigma) = E ||f(x_sigma, sigma) - z||^2.

    c(sigma) = ||mean||^2 + d (std^2 + sigma_min^2 + 1 - 2 k(sigma) sigma)

    Falls from the cost of independent coupling at sigma = sigma_min = 0, ||mean||^2 + d (std^2 + 1), to that of optimal
    transport, ||mean||^2 + d (std - 1)^2.

    Source: definition in GC (ICML) Eq. 19; closed form derived here.
    """
    spread = std**2 + sigma_min**2 + 1 - 2 * contraction(sigma, std, sigma_min) * sigma
    return mean.square().sum() + mean.numel() * spread


def proxy_independent(sigma: PerExample, std: float, num_dimensions: int) -> PerExample:
    """Gap between sample path and flow under independent coupling, E ||z - E[z | x_sigma]||^2.

    R_IC(sigma) = d std^2 / (std^2 + sigma^2)

    Source: definition in GC (ICML) Eq. 17; closed form derived here.
    """
    return num_dimensions * std**2 / (std**2 + sigma.square())


def proxy_generator(sigma: PerExample, std: float, num_dimensions: int, sigma_min: float = 0.0) -> PerExample:
    """The same gap under generator-augmented coupling with the exact map as predictor.

    R_GC(sigma) = d k^2 std^2 / (k^2 std^2 + (1 + k)^2 sigma^2)

    since x~ = f(x_sigma, sigma) + sigma z = mean + k std e + (1 + k) sigma z, e standard normal. Falls as 1 / sigma^4,
    where `proxy_independent` falls as 1 / sigma^2.

    Source: definition in GC (ICML) Eq. 17; closed form derived here.
    """
    slope = contraction(sigma, std, sigma_min)
    kept = slope.square() * std**2
    return num_dimensions * kept / (kept + ((1 + slope) * sigma).square())
