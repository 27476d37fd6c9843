"""Data, noise, velocity and score at one state: four ways to say the same.

Given a state noisy = a data + b noise, any one of them fixes the other three, for samples and for conditional means
alike, since noisy = a E[data | noisy] + b E[noise | noisy]. All of that algebra is here; nothing here is specific to a
process.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gcsearch.science.preconditioning import per_example
from gcsearch.science.process import Coefficients
from gcsearch.science.shapes import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """Expected data and noise at a state, and what follows from them.

    Built from whichever quantity is at hand: ``Estimate.from_velocity(noisy, velocity, coefficients).score``. With
    W = a b' - a' b, which is positive wherever the signal-to-noise ratio falls:

    =============  ======================  =======================  ===========================
    built from     data                    noise                    undefined where
    =============  ======================  =======================  ===========================
    data D         D                       (x - a D) / b            b = 0, below every sigma_min
    noise Z        (x - b Z) / a           Z                        a = 0, where x is the noise
    velocity v     (b' x - b v) / W        (a v - a' x) / W         nowhere
    score s        (x + b^2 s) / a         -b s                     a = 0
    =============  ======================  =======================  ===========================

    a = 0 happens at sigma = 1 of ``linear`` and at sigma_max of ``conditional_ot``: the data and the velocity cannot be
    told from the noise there, and come out infinite or nan.

    Attributes:
        data: E[data | noisy].
        noise: E[noise | noisy].
        coefficients: Coefficients of the state's level, with derivatives by it.
    """

    data: Batch
    noise: Batch
    coefficients: Coefficients

    @classmethod
    def from_data(cls, noisy: Batch, data: Batch, coefficients: Coefficients) -> Estimate:
        """From the denoised state: noise = (noisy - a data) / b. Loses digits as b approaches 0."""
        a, b = per_example(coefficients.data, noisy), per_example(coefficients.noise, noisy)
        return cls(data=data, noise=(noisy - a * data) / b, coefficients=coefficients)

    @classmethod
    def from_noise(cls, noisy: Batch, noise: Batch, coefficients: Coefficients) -> Estimate:
        """From the noise: data = (noisy - b noise) / a. Loses digits as a approaches 0."""
        a, b = per_example(coefficients.data, noisy), per_example(coefficients.noise, noisy)
        return cls(data=(noisy - b * noise) / a, noise=noise, coefficients=coefficients)

    @classmethod
    def from_velocity(cls, noisy: Batch, velocity: Batch, coefficients: Coefficients) -> Estimate:
        """From the velocity by the level: solves a data + b noise = noisy, a' data + b' noise = velocity."""
        a, b = per_example(coefficients.data, noisy), per_example(coefficients.noise, noisy)
        a_slope = per_example(coefficients.data_derivative, noisy)
        b_slope = per_example(coefficients.noise_derivative, noisy)
        determinant = a * b_slope - a_slope * b
        return cls(
            data=(b_slope * noisy - b * velocity) / determinant,
            noise=(a * velocity - a_slope * noisy) / determinant,
            coefficients=coefficients,
        )

    @classmethod
    def from_score(cls, noisy: Batch, score: Batch, coefficients: Coefficients) -> Estimate:
        """From the score, for standard normal noise only: noise = -b score."""
        return cls.from_noise(noisy, -per_example(coefficients.noise, noisy) * score, coefficients)

    @property
    def velocity(self) -> Batch:
        """Slope of the flow by the level, d noisy / d sigma = a' data + b' noise.

        Of conditional means: the probability-flow ODE. Of one sample: the slope of its straight or curved path. By
        another coordinate t of the same path, multiply by d sigma / dt.
        """
        a_slope = per_example(self.coefficients.data_derivative, self.data)
        b_slope = per_example(self.coefficients.noise_derivative, self.data)
        velocity: Tensor = a_slope * self.data + b_slope * self.noise
        return velocity

    @property
    def score(self) -> Batch:
        """Gradient of the log-density of the state, -E[noise | noisy] / b.

        Holds for standard normal noise that is drawn independently of the data; for another source or coupling this is
        not the score. Undefined where b = 0.
        """
        score: Tensor = -self.noise / per_example(self.coefficients.noise, self.noise)
        return score
