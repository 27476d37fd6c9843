"""Denoising: the expected data at every state, from which the flow of a coupling follows."""

from __future__ import annotations

from dataclasses import dataclass

from gcsearch.science.objectives.base import (
    LossTerms,
    Models,
    Objective,
    Recipe,
    end_points,
    mean_loss,
    num_generated,
    objectives,
)
from gcsearch.science.randomness import StepDraws
from gcsearch.science.shapes import Batch


@objectives.register("denoising")
@dataclass(frozen=True, kw_only=True)
class Denoising(Objective):
    """Regression of the data on the noisy state; its minimum is D(x, sigma) = E[data | x] under the recipe's coupling.

    L = mean of w(sigma) ||f(x_sigma, sigma) - data||^2 / d, w = (a^2 sigma_data^2 + b^2) / (b sigma_data)^2

    The weight makes the network's own output the target, with unit variance at every level; for the
    variance-exploding process it is EDM's. The level is continuous, drawn by the recipe's proposal; its timesteps,
    weighting and distance are not used. A generator-augmented coupling predicts its end points at that level.

    Source: EDM Eq. 8 and Table 1; one denoiser per coupling as in GC (ICML) section 4.2.
    """

    def __call__(
        self, recipe: Recipe, models: Models, data: Batch, draws: StepDraws, step: int, num_steps: int
    ) -> LossTerms:
        process, progress = recipe.process, step / num_steps
        sigma = recipe.levels.quantile(draws.level_uniforms, process)
        ends = end_points(recipe, models, data, draws, sigma, progress)
        noisy = process.add_noise(ends.data, ends.noise, sigma)
        errors = models.online(noisy, sigma, draws.dropout_seed) - ends.data
        level = process.coefficients(sigma)
        variance = process.sigma_data**2
        weight = (level.data.square() * variance + level.noise.square()) / (level.noise.square() * variance)
        batch_size = data.shape[0]
        return LossTerms(
            loss=mean_loss(errors.flatten(1).square().mean(1), weight),
            forward_units=3 * batch_size + num_generated(recipe, draws, batch_size, progress),
        )
