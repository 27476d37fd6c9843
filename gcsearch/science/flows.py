"""Probability flows: at every state of a process, the expected data, the expected noise and the slope of the ODE.

Closed forms are in `gcsearch.science.oracles`; here is what they share with a trained denoiser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch

from gcsearch.science.conversions import Estimate
from gcsearch.science.preconditioning import ConsistencyFunction, per_example
from gcsearch.science.process import Process
from gcsearch.science.shapes import Batch, PerExample


class Flow(ABC):
    """The probability-flow ODE of a process under one coupling of data and noise.

    Attributes:
        process: Forward process.
    """

    process: Process

    @abstractmethod
    def expectation(self, noisy: Batch, sigma: PerExample) -> Estimate:
        """E[data | noisy] and E[noise | noisy] under the flow's coupling."""

    def denoised(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Mean of the data given the state."""
        return self.expectation(noisy, sigma).data

    def velocity(self, noisy: Batch, sigma: PerExample) -> Batch:
        """Slope of the probability-flow ODE, d noisy / d sigma = a' E[data | noisy] + b' E[noise | noisy]."""
        return self.expectation(noisy, sigma).velocity


class LearnedFlow(Flow):
    """The flow that a denoiser says there is.

    Args:
        denoiser: Network trained by the objective ``denoising``; its coupling is the flow's.
    """

    def __init__(self, denoiser: ConsistencyFunction) -> None:
        self.process = denoiser.process
        self.denoiser = denoiser

    def expectation(self, noisy: Batch, sigma: PerExample) -> Estimate:
        with torch.no_grad():
            data = self.denoiser(noisy, sigma)
        return Estimate.from_data(noisy, data, self.process.coefficients(sigma.to(noisy)))


def solver_step(
    flow: Flow, noisy: Batch, sigma: PerExample, sigma_to: PerExample, solver: Literal["euler", "heun"]
) -> Batch:
    """State at `sigma_to` after one step of an ODE solver along the flow from `noisy` at `sigma`.

    x_to = x + (a_to - a) E[data | x] + (b_to - b) E[noise | x]                                       (Euler)

    Heun's step takes the mean of the two expectations at both ends of Euler's step. With a = 1 and b = sigma, and on
    straight paths, these are the common forms in sigma; for any process, expectations that stay the same along the way
    give the exact step (it is DDIM's). The error of a step is O(h^2) with Euler and O(h^3) with Heun.

    Args:
        flow: The flow.
        noisy: State at `sigma`.
        sigma: Level of each example.
        sigma_to: Level where the step ends, > 0.
        solver: ``euler``, one evaluation of the flow; ``heun``, two.

    Source: EDM Algorithm 1 for Heun's step; DDIM for the form in both coefficients.
    """
    here = flow.expectation(noisy, sigma)
    there = flow.process.coefficients(sigma_to.to(noisy))
    change_data = per_example(there.data - here.coefficients.data, noisy)
    change_noise = per_example(there.noise - here.coefficients.noise, noisy)
    euler = noisy + change_data * here.data + change_noise * here.noise
    if solver == "euler":
        return euler
    end = flow.expectation(euler, sigma_to)
    return noisy + change_data * (here.data + end.data) / 2 + change_noise * (here.noise + end.noise) / 2
