"""Closed forms that stand in for a trained network, so that the science can be tested without training.

- `GaussianMixture`: a distribution, and its denoiser, score and flow under noisy = data + sigma noise.
- `MixtureFlow`: the same for mixtures as data *and* source, under any process.
- `FiniteData`: the same for a finite set of examples, under any process.
- `ExactConsistency`: the consistency map itself, for a single Gaussian.

Every function takes the dtype of its input; use float64 for tight comparisons.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gcsearch.science.conversions import Estimate
from gcsearch.science.flows import Flow
from gcsearch.science.preconditioning import ConsistencyFunction, per_example
from gcsearch.science.process import Coefficients, Process
from gcsearch.science.shapes import Batch, DropoutSeed, PerExample


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianMixture:
    """Data distribution sum_k pi_k N(m_k, diag(std^2)), seen through the variance-exploding process.

    A single Gaussian is a mixture of one mode. At level sigma each mode is N(m_k, diag(std^2 + sigma^2)). For other
    processes and sources see `MixtureFlow`.

    Attributes:
        means: Modes m_k, shape (K, *event).
        std: Standard deviation of every mode: one number, or one per coordinate, shape (*event,). 0 makes the data K
            points.
        probabilities: Weights pi_k, shape (K,), positive and summing to 1; None weighs the modes equally.

    Source: own derivation from Bayes' rule, as are all formulas of this class.
    """

    means: Tensor
    std: float | Tensor
    probabilities: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """Probabilities of the modes, shape (K,)."""
        num_modes = len(self.means)
        return torch.full((num_modes,), 1 / num_modes) if self.probabilities is None else self.probabilities

    def variance(self, like: Tensor) -> Tensor:
        """Variance of every mode along each coordinate, shape (d,), in the dtype of `like`."""
        return torch.as_tensor(self.std).to(like).square().expand(self.means.shape[1:]).flatten()

    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """Data points, shape (num, *event), in the dtype of `means`."""
        mode = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        spread = torch.randn(num, *self.means.shape[1:], generator=generator, dtype=self.means.dtype)
        return self.means[mode] + self.std * spread

    def log_joint(self, noisy: Batch, sigma: PerExample) -> Tensor:
        """Logarithm of pi_k N(noisy; m_k, diag(std^2 + sigma^2)), shape (B, K)."""
        offsets = (noisy[:, None] - self.means.to(noisy)).flatten(2)
        variance = (self.variance(noisy) + sigma.square()[:, None])[:, None]
        return self.weights.to(noisy).log() + log_normal(offsets, variance)

    def log_density(self, noisy: Batch, sigma: PerExample) -> PerExample:
        """Logarithm of p_sigma(noisy)."""
        return self.log_joint(noisy, sigma).logsumexp(1)

    def denoised(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Mean of the data given the state.

        D(x, sigma) = sum_k r_k [m_k + std^2 / (std^2 + sigma^2) (x - m_k)], r_k ~ pi_k N(x; m_k, diag(std^2 + sigma^2))
        """
        responsibility = self.log_joint(noisy, sigma).softmax(1)
        mode = torch.einsum("bk,k...->b...", responsibility, self.means.to(noisy))
        variance = self.variance(noisy)
        shrinkage = variance / (variance + sigma.square()[:, None])
        return mode + shrinkage.reshape(noisy.shape) * (noisy - mode)

    def score(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Gradient of `log_density` by the state: (D(x, sigma) - x) / sigma^2."""
        return (self.denoised(noisy, sigma) - noisy) / per_example(sigma.square(), noisy)

    def velocity(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Slope of the probability-flow ODE, dx / dsigma = (x - D(x, sigma)) / sigma, which is E[noise | x]."""
        return (noisy - self.denoised(noisy, sigma)) / per_example(sigma, noisy)


def log_normal(offsets: Tensor, variance: Tensor) -> Tensor:
    """Logarithm of the density of N(0, diag(variance)) at `offsets`; the last dimension is that of the coordinates."""
    return -(offsets.square() / (2 * variance) + (2 * math.pi * variance).log() / 2).sum(-1)


class IdealFlow(Flow):
    """What a network trained without error would say at every state of a process, from the distributions alone."""

    @abstractmethod
    def log_density(self, noisy: Batch, sigma: PerExample) -> PerExample:
        """Logarithm of p_sigma(noisy)."""

    @abstractmethod
    def score(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Gradient of `log_density` by the state."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureFlow(IdealFlow):
    """Mixtures of Gaussians as data and as source, under any process.

    For data N(m_k, s^2) with weights pi_k, source N(n_j, t^2) with weights rho_j, at noisy = a data + b noise (each
    coordinate has its own C if s or t has one value per coordinate):

    r_kj ~ pi_k rho_j N(x; mu_kj, C), mu_kj = a m_k + b n_j, C = a^2 s^2 + b^2 t^2
    score = sum r_kj (mu_kj - x) / C
    E[data | x] = sum r_kj m_k - a s^2 score
    E[noise | x] = sum r_kj n_j - b t^2 score

    Finite at every level where C > 0, both ends of a straight path included.

    Attributes:
        process: Forward process.
        data: Distribution of the data.
        source: Distribution of the noise; None for the standard normal one.

    Source: Bayes' rule for jointly Gaussian variables, derived here.
    """

    process: Process
    data: GaussianMixture
    source: GaussianMixture | None = None

    @cached_property
    def noise(self) -> GaussianMixture:
        """Distribution of the noise."""
        normal = GaussianMixture(means=torch.zeros_like(self.data.means[:1]), std=1.0)
        return normal if self.source is None else self.source

    def log_density(self, noisy: Batch, sigma: PerExample) -> PerExample:
        """Logarithm of p_sigma(noisy)."""
        return self._log_joint(noisy, self.process.coefficients(sigma.to(noisy))).flatten(1).logsumexp(1)

    def expectation(self, noisy: Batch, sigma: PerExample) -> Estimate:
        """E[data | noisy] and E[noise | noisy] under independent coupling."""
        level = self.process.coefficients(sigma.to(noisy))
        data, noise, score = self._posterior(noisy, level)
        return Estimate(
            data=data - (level.data[:, None] * self.data.variance(noisy)).reshape(noisy.shape) * score,
            noise=noise - (level.noise[:, None] * self.noise.variance(noisy)).reshape(noisy.shape) * score,
            coefficients=level,
        )

    def score(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Gradient of `log_density` by the state, for any source."""
        return self._posterior(noisy, self.process.coefficients(sigma.to(noisy)))[2]

    def _variance(self, noisy: Batch, level: Coefficients) -> Tensor:
        """Variance C of every component along each coordinate, shape (B, d)."""
        data, noise = level.data.square()[:, None], level.noise.square()[:, None]
        return data * self.data.variance(noisy) + noise * self.noise.variance(noisy)

    def _log_joint(self, noisy: Batch, level: Coefficients) -> Tensor:
        """Logarithm of pi_k rho_j N(noisy; mu_kj, C), shape (B, K, J)."""
        data, noise = self.data.means.to(noisy).flatten(1), self.noise.means.to(noisy).flatten(1)
        centres = torch.einsum("b,kd->bkd", level.data, data)[:, :, None]
        centres = centres + torch.einsum("b,jd->bjd", level.noise, noise)[:, None]
        weights = self.data.weights.to(noisy).log()[:, None] + self.noise.weights.to(noisy).log()
        offsets = noisy.flatten(1)[:, None, None] - centres
        return weights + log_normal(offsets, self._variance(noisy, level)[:, None, None])

    def _posterior(self, noisy: Batch, level: Coefficients) -> tuple[Batch, Batch, Batch]:
        """Expected modes of data and source given the state, sum r_kj m_k and sum r_kj n_j, and the score."""
        joint = self._log_joint(noisy, level)
        responsibility = joint.flatten(1).softmax(1).reshape(joint.shape)
        data = torch.einsum("bkj,k...->b...", responsibility, self.data.means.to(noisy))
        noise = torch.einsum("bkj,j...->b...", responsibility, self.noise.means.to(noisy))
        centre = per_example(level.data, noisy) * data + per_example(level.noise, noisy) * noise
        return data, noise, (centre - noisy) / self._variance(noisy, level).reshape(noisy.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class FiniteData(IdealFlow):
    """A finite set of equally likely examples x_i as the data, standard normal noise, under any process.

    w_i ~ exp(-||x - a x_i||^2 / (2 b^2)), E[data | x] = sum w_i x_i

    What a network of unlimited size would learn from a training set: it tends to the nearest example as b goes to 0 and
    to the mean of the set as a goes to 0. Needs memory for B times `len(examples)` numbers.

    Attributes:
        process: Forward process.
        examples: The set, shape (num_examples, *event).

    Source: the ideal denoiser of EDM for a = 1; Bayes' rule otherwise.
    """

    process: Process
    examples: Tensor

    def log_joint(self, noisy: Batch, sigma: PerExample) -> Tensor:
        """Logarithm of N(noisy; a x_i, b^2 I) / num_examples, shape (B, num_examples)."""
        level = self.process.coefficients(sigma.to(noisy))
        states, examples = noisy.flatten(1), self.examples.to(noisy).flatten(1)
        # Differences, not the expanded square: at small b only neighbours differ, by less than the rounding of norms.
        distances = torch.stack(
            [
                torch.cdist(state[None], a * examples, compute_mode="donot_use_mm_for_euclid_dist")[0]
                for state, a in zip(states, level.data, strict=True)
            ]
        )
        variance = level.noise.square()[:, None]
        normalisation = states.shape[1] / 2 * (2 * math.pi * variance).log() + math.log(len(examples))
        return -distances.square() / (2 * variance) - normalisation

    def log_density(self, noisy: Batch, sigma: PerExample) -> PerExample:
        """Logarithm of p_sigma(noisy)."""
        return self.log_joint(noisy, sigma).logsumexp(1)

    def expectation(self, noisy: Batch, sigma: PerExample) -> Estimate:
        """E[data | noisy] and E[noise | noisy] under independent coupling."""
        weights = self.log_joint(noisy, sigma).softmax(1)
        data = (weights @ self.examples.to(noisy).flatten(1)).reshape(noisy.shape)
        return Estimate.from_data(noisy, data, self.process.coefficients(sigma.to(noisy)))

    def score(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Gradient of `log_density` by the state."""
        return self.expectation(noisy, sigma).score


class ExactConsistency(ConsistencyFunction):
    """Exact consistency function of data N(mean, std^2 I), for use in the place of a trained one.

    For noisy = data + sigma noise: f(x, sigma) = mean + sqrt((std^2 + sigma_min^2) / (std^2 + sigma^2)) (x - mean).

    For any process, with a_min and b_min the coefficients at sigma_min:

    f(x, sigma) = a_min mean + sqrt((a_min^2 std^2 + b_min^2) / (a^2 std^2 + b^2)) (x - a mean)

    Args:
        process: Forward process; a(sigma) may be 0.
        mean: Mean of the data, shape (*event,).
        std: Standard deviation of the data; with 0 all states of one noise map to one point.

    Source: own derivation; the flow of a Gaussian keeps (x - a mean) / sqrt(a^2 std^2 + b^2) constant.
    """

    def __init__(self, process: Process, mean: Tensor, std: float) -> None:
        super().__init__(torch.nn.Identity(), process)
        self.mean = mean
        self.std = std

    def __call__(self, noisy: Batch, sigma: PerExample, dropout_seed: int | DropoutSeed | None = None) -> Batch:
        """End of the flow through `noisy`; equal to `noisy` at sigma_min."""
        return self.jump(noisy, sigma, torch.full_like(sigma, self.process.sigma_min), dropout_seed)

    def jump(
        self, noisy: Batch, sigma: PerExample, sigma_to: PerExample, dropout_seed: int | DropoutSeed | None = None
    ) -> Batch:
        """State at `sigma_to` of the flow through `noisy`: the same formula with other coefficients."""
        del dropout_seed
        here, end = self.process.coefficients(sigma), self.process.coefficients(sigma_to)
        kept = (_spread(end, self.std) / _spread(here, self.std)).sqrt()
        pulled = end.data - kept * here.data
        return per_example(kept, noisy) * noisy + per_example(pulled, noisy) * self.mean.to(noisy)


def _spread(coefficients: Coefficients, std: float) -> PerExample:
    """Variance of a state whose data has standard deviation `std`."""
    return (coefficients.data * std).square() + coefficients.noise.square()


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
