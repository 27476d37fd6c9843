"""Denoising: the expected data at every state, from which the flow of a coupling follows."""

from __future__ import annotations

from dataclasses import dataclass

from gcsearch.science.objectives.base import Models, Recipe, mean_loss, objectives
from gcsearch.science.objectives.prepared import PreparedBatch, TensorObjective
from gcsearch.science.shapes import Scalar


@objectives.register("denoising")
@dataclass(frozen=True, kw_only=True)
class Denoising(TensorObjective):
    """Regression of the data on the noisy state; its minimum is D(x, sigma) = E[data | x] under the recipe's coupling.

    L = mean of w(sigma) ||f(x_sigma, sigma) - data||^2 / d, w = (a^2 sigma_data^2 + b^2) / (b sigma_data)^2

    The weight makes the network's own output the target, with unit variance at every level; for the
    variance-exploding process it is EDM's. The level is continuous, drawn by the recipe's proposal; its timesteps,
    weighting and distance are not used. A generator-augmented coupling predicts its end points at that level.

    Source: EDM Eq. 8 and Table 1; one denoiser per coupling as in GC (ICML) section 4.2.
    """

    @property
    def forwards(self) -> int:
        """Forward and backward."""
        return 3

    def loss(self, recipe: Recipe, models: Models, batch: PreparedBatch) -> Scalar:
        process, (sigma,) = recipe.process, batch.levels
        ends = batch.end_points(recipe, models)
        noisy = process.add_noise(ends.data, ends.noise, sigma)
        errors = models.online(noisy, sigma, batch.dropout_seed) - ends.data
        level = process.coefficients(sigma)
        variance = process.sigma_data**2
        weight = (level.data.square() * variance + level.noise.square()) / (level.noise.square() * variance)
        return mean_loss(errors.flatten(1).square().mean(1), weight)
