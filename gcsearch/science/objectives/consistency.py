"""Consistency training (iCT), the objective of both GC papers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gcsearch.science.objectives.base import Models, Recipe, objectives
from gcsearch.science.objectives.prepared import PairObjective, Pairs
from gcsearch.science.shapes import Batch, DropoutSeed


@objectives.register("consistency")
@dataclass(frozen=True, kw_only=True)
class Consistency(PairObjective):
    """Consistency training: the student at the upper level matches the teacher at the lower one.

    L = mean of lambda(sigma_i, sigma_{i+1}) D(sg f(x_i, sigma_i), f(x_{i+1}, sigma_{i+1})),
    x_i = a(sigma_i) data + b(sigma_i) noise with the end points of the coupling, i drawn from the proposal.

    The teacher has the student's weights, without gradient and with the student's dropout mask; the coupling's
    predictor has neither gradient nor dropout. Zero for the exact consistency map of a deterministic flow.

    Source: iCT Eq. for CT with N(k), p(sigma_i) and lambda; GC v1 Eq. 6 and 9.
    """

    def states_and_target(
        self, recipe: Recipe, models: Models, pairs: Pairs, dropout_seed: DropoutSeed
    ) -> tuple[Batch, Batch]:
        lower, upper = pairs.states(recipe.process)
        with torch.no_grad():
            return upper, models.online(lower, pairs.sigma_lower, dropout_seed)
