"""The denoiser of EDM, for networks that were trained there."""

from __future__ import annotations

from torch import nn

from gcsearch.science.preconditioning import ConsistencyFunction, per_example
from gcsearch.science.process import Process
from gcsearch.science.shapes import Batch, DropoutSeed, PerExample


class EDMDenoiser(ConsistencyFunction):
    """D(x, sigma) of a network that was trained under EDM's preconditioning.

    D = c_skip x + c_out F(c_in x, ln(sigma) / 4), with v = sigma^2 + sigma_data^2,
    c_skip = sigma_data^2 / v, c_out = sigma sigma_data / sqrt(v), c_in = 1 / sqrt(v)

    It differs from a consistency function by c_out, which vanishes at sigma = 0 and not at sigma_min.

    Args:
        network: Module called as ``network(x, conditioning, dropout)``.
        process: Process of what uses it: ``ve``, whose states are those of EDM.
        sigma_data: Standard deviation of the data that it was trained for.
        precision: ``fp32`` or ``bf16``.

    Source: EDM (arXiv:2206.00364) Table 1.
    """

    def __init__(self, network: nn.Module, process: Process, sigma_data: float, precision: str = "fp32") -> None:
        super().__init__(network, process, precision)
        self.sigma_data = sigma_data

    def __call__(self, noisy: Batch, sigma: PerExample, dropout_seed: int | DropoutSeed | None = None) -> Batch:
        """Mean of the data given `noisy` at level `sigma` > 0."""
        variance = sigma.square() + self.sigma_data**2
        skip, out = self.sigma_data**2 / variance, sigma * self.sigma_data / variance.sqrt()
        output = self.output(per_example(variance.rsqrt(), noisy) * noisy, sigma.log() / 4, dropout_seed)
        return per_example(skip, noisy) * noisy + per_example(out, noisy) * output
