"""Probability flows: at every state of a process, the expected data, the expected noise and the slope of the ODE.

Closed forms are in `gcsearch.science.oracles`; here is what they share with a trained denoiser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from gcsearch.science.conversions import Estimate
from gcsearch.science.preconditioning import ConsistencyFunction
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
