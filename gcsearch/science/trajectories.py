"""Trajectory functions: from a state at one level to the state of the same flow at any lower one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gcsearch.science.preconditioning import ConsistencyFunction, per_example
from gcsearch.science.shapes import Batch, DropoutSeed, PerExample


@runtime_checkable
class Trajectory(Protocol):
    """What can be asked for the state at a lower level than the last."""

    def jump(
        self, noisy: Batch, sigma: PerExample, sigma_to: PerExample, dropout_seed: int | DropoutSeed | None = None
    ) -> Batch:
        """State at `sigma_to` of the flow through `noisy` at `sigma`."""


class TrajectoryFunction(ConsistencyFunction):
    """G(x, t, s) of CTM: a network that is told both levels.

    With the state and levels of the variance-exploding process, x = noisy / a, t = b / a:

    G(x, t, s) = s / t x + (1 - s / t) g(x, t, s), g = c_skip(t) x + c_out(t) F(c_in(t) x, ln(t) / 4, ln(s) / 4)

    with EDM's coefficients, so that G(x, t, t) = x and g(x, t, t) is the denoiser. Called with one level, it is the
    consistency function G(x, t, sigma_min). Levels where no data is left, a = 0, are not defined.

    Source: CTM (arXiv:2310.02279) Eq. 5 and 6, with its code's preconditioning.
    """

    def __call__(self, noisy: Batch, sigma: PerExample, dropout_seed: int | DropoutSeed | None = None) -> Batch:
        return self.jump(noisy, sigma, torch.full_like(sigma, self.process.sigma_min), dropout_seed)

    def jump(
        self, noisy: Batch, sigma: PerExample, sigma_to: PerExample, dropout_seed: int | DropoutSeed | None = None
    ) -> Batch:
        """State at `sigma_to` <= `sigma` of the flow through `noisy`; `noisy` itself where they are equal."""
        start, end = self.process.coefficients(sigma), self.process.coefficients(sigma_to)
        state = noisy / per_example(start.data, noisy)
        ratio = per_example((end.noise / end.data) / (start.noise / start.data), noisy)
        estimate = self.estimate(noisy, sigma, sigma_to, dropout_seed)
        jumped: Tensor = per_example(end.data, noisy) * (ratio * state + (1 - ratio) * estimate)
        return jumped

    def estimate(
        self, noisy: Batch, sigma: PerExample, sigma_to: PerExample, dropout_seed: int | DropoutSeed | None = None
    ) -> Batch:
        """g(x, t, s), an estimate of the data: with `sigma_to` equal to `sigma`, its mean."""
        start, end = self.process.coefficients(sigma), self.process.coefficients(sigma_to)
        level, level_to = start.noise / start.data, end.noise / end.data
        state, variance = noisy / per_example(start.data, noisy), self.process.sigma_data**2
        scale = (variance + level.square()).rsqrt()
        told = torch.stack([level.log() / 4, level_to.log() / 4], dim=1)
        output = self.output(per_example(scale, state) * state, told, dropout_seed)
        skip, out = variance * scale.square(), level * self.process.sigma_data * scale
        estimate: Tensor = per_example(skip, state) * state + per_example(out, state) * output
        return estimate
