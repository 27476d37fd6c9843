"""From a network F to a consistency function f with an exact boundary condition.

f(x, sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x, c_noise(sigma))

with f(x, sigma_min) = x, because c_skip = 1 and c_out = 0 there. The coefficients belong to the process
(`gcsearch.science.process`); this module holds the general formula and the callable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gcsearch.science.dropout import seed_tensor
from gcsearch.science.shapes import Batch, Conditions, DropoutSeed, PerExample

if TYPE_CHECKING:
    from gcsearch.science.process import Process


@dataclass(frozen=True, kw_only=True)
class Preconditioning:
    """Coefficients of f at given levels, one per example.

    Attributes:
        skip: Weight of the noisy input in the output; 1 at the smallest level.
        out: Weight of the network in the output; 0 at the smallest level.
        scale: Factor c_in that gives the network's input unit variance.
        conditioning: What the network is told about the level, c_noise.
    """

    skip: PerExample
    out: PerExample
    scale: PerExample
    conditioning: PerExample


def unit_variance(
    data: Tensor,
    noise: Tensor,
    boundary_data: Tensor,
    boundary_noise: Tensor,
    conditioning: Tensor,
    sigma_data: float,
) -> Preconditioning:
    """Preconditioning with unit-variance input and target for noisy = a data + b noise.

    c_in = 1 / sqrt(a^2 sigma_data^2 + b^2)
    c_skip = a~ sigma_data^2 / (a~^2 sigma_data^2 + b~^2)
    c_out = b~ sigma_data c_in

    Args:
        data: Coefficient a of the data.
        noise: Coefficient b of the noise.
        boundary_data: a~, equal to 1 at the smallest level.
        boundary_noise: b~, equal to 0 at the smallest level.
        conditioning: c_noise.
        sigma_data: Standard deviation of the data.

    Returns:
        The four coefficients; with a = a~ = 1, b = sigma, b~ = sigma - sigma_min they are CM's.

    Source: EDM Table 1 for the unit-variance argument; the boundary shift is CM Appendix C (b~ = sigma - sigma_min).
    """
    variance = sigma_data**2
    scale = (data.square() * variance + noise.square()).rsqrt()
    skip = boundary_data * variance / (boundary_data.square() * variance + boundary_noise.square())
    return Preconditioning(skip=skip, out=boundary_noise * sigma_data * scale, scale=scale, conditioning=conditioning)


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """View of shape (B, 1, ..., 1) that broadcasts one value per example over `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


class ConsistencyFunction:
    """The consistency function f of a network under a process.

    Args:
        network: Module called as ``network(x, conditioning, dropout)``.
        process: Forward process; gives the coefficients.
        precision: ``fp32`` or ``bf16``. Only the network runs in bf16; levels, preconditioning and the result stay in
            fp32, since neighbouring levels differ by less than bf16 resolves.
    """

    def __init__(self, network: nn.Module, process: Process, precision: str = "fp32") -> None:
        self.network = network
        self.process = process
        self.precision = precision

    def __call__(self, noisy: Batch, sigma: PerExample, dropout_seed: int | DropoutSeed | None = None) -> Batch:
        """Estimate of the data at the end of the flow through `noisy`.

        Args:
            noisy: State at level `sigma`.
            sigma: Noise level per example, in [sigma_min, sigma_max].
            dropout_seed: Seed of the dropout masks, of which 64 bits count, or a tensor that names the rows too (see
                `gcsearch.science.dropout.seed_of_rows`); None switches dropout off. Two calls with one seed drop the
                same entries of each row, on every device, eager or compiled, in either precision.

        Returns:
            f(noisy, sigma), in fp32, equal to `noisy` at sigma_min.
        """
        coefficients = self.process.preconditioning(sigma)
        output = self.output(per_example(coefficients.scale, noisy) * noisy, coefficients.conditioning, dropout_seed)
        skip, out = per_example(coefficients.skip, noisy), per_example(coefficients.out, noisy)
        estimate: Tensor = skip * noisy + out * output
        return estimate

    def output(self, scaled: Batch, conditioning: Conditions, dropout_seed: int | DropoutSeed | None = None) -> Batch:
        """The network's own output F, in the dtype of its input.

        Args:
            scaled: Input of unit variance, c_in x.
            conditioning: What the network is told, c_noise and further conditions if it takes any.
            dropout_seed: As in a call.
        """
        dropout = seed_tensor(dropout_seed, scaled.device) if isinstance(dropout_seed, int) else dropout_seed
        with torch.autocast(scaled.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            output: Tensor = self.network(scaled, conditioning, dropout)
        return output.to(scaled.dtype)

    def output_slope(
        self, inputs: tuple[Batch, Conditions], slopes: tuple[Batch, Conditions], dropout_seed: int | DropoutSeed | None
    ) -> tuple[Batch, Batch]:
        """F and its derivative in the direction of `slopes`, by forward-mode differentiation; without gradient.

        The cost is about that of two forwards.

        Args:
            inputs: Scaled state and conditions.
            slopes: Their derivatives by the coordinate that is differentiated by.
            dropout_seed: As in a call.
        """
        with torch.no_grad():
            output, slope = torch.func.jvp(  # type: ignore[misc]  # three values only where `has_aux` asks for them
                lambda scaled, conditioning: self.output(scaled, conditioning, dropout_seed), inputs, slopes
            )
        return output, slope
