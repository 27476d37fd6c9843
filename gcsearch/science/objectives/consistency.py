"""Consistency training (iCT), the objective of both GC papers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gcsearch.science.objectives.base import (
    LossTerms,
    Models,
    Objective,
    Recipe,
    mean_loss,
    num_generated,
    objectives,
    training_pairs,
)
from gcsearch.science.randomness import StepDraws
from gcsearch.science.shapes import Batch


@objectives.register("consistency")
@dataclass(frozen=True, kw_only=True)
class Consistency(Objective):
    """Consistency training: the student at the upper level matches the teacher at the lower one.

    L = mean of lambda(sigma_i, sigma_{i+1}) D(sg f(x_i, sigma_i), f(x_{i+1}, sigma_{i+1})),
    x_i = a(sigma_i) data + b(sigma_i) noise with the end points of the coupling, i drawn from the proposal.

    The teacher has the student's weights, without gradient and with the student's dropout mask; the coupling's
    predictor has neither gradient nor dropout. Zero for the exact consistency map of a deterministic flow.

    Source: iCT Eq. for CT with N(k), p(sigma_i) and lambda; GC v1 Eq. 6 and 9.
    """

    def __call__(
        self, recipe: Recipe, models: Models, data: Batch, draws: StepDraws, step: int, num_steps: int
    ) -> LossTerms:
        pairs = training_pairs(recipe, models, data, draws, step, num_steps)
        lower, upper = pairs.states(recipe.process)
        with torch.no_grad():
            target = models.online(lower, pairs.sigma_lower, draws.dropout_seed)
        output = models.online(upper, pairs.sigma_upper, draws.dropout_seed)

        weight = recipe.weighting.weight(pairs.sigma_lower, pairs.sigma_upper)
        batch_size = data.shape[0]
        return LossTerms(
            loss=mean_loss(recipe.distance(output, target), weight),
            forward_units=4 * batch_size + num_generated(recipe, draws, batch_size, step / num_steps),
        )
