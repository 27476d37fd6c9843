"""Easy consistency tuning: consistency training that begins as denoising, from a trained denoiser or from scratch."""

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
from gcsearch.science.preconditioning import per_example
from gcsearch.science.randomness import StepDraws
from gcsearch.science.shapes import Batch
from gcsearch.science.teachers import Teacher


@objectives.register("ect")
@dataclass(frozen=True, kw_only=True)
class EasyConsistencyTuning(Objective):
    """Easy consistency tuning: the student at t matches itself at r < t, or the example where r is the smallest level.

    L = mean of w(t, r) D(f(x_t, t), target), target = sg f(x_r, r) if r > sigma_min, else the coupled data

    With the timesteps ``ect`` the pairs (t, r(t)) are ECT's: at first most of them have the smallest r, where the loss
    is that of a denoiser, so a trained denoiser is close to its minimum; then r comes closer to t in stages. The
    weighting ``inverse_gap`` is ECT's 1 / (t - r), and ``pseudo_huber`` its norm, which divides the gradient by the
    size of the error. With the coupling ``generator`` this is GC inside ECT: r is the predictor's level, and the
    target at the smallest r is the generated end point.

    Attributes:
        teacher: Trained denoiser whose weights the student starts with; null starts from random ones. Nothing else is
            done with it: ECT follows no teacher's flow.

    Source: ECT (arXiv:2406.14548) Algorithm 1, weight and norm as its code computes them, the case r = 0 too; GC
    (ICML) section 5.3 for the coupling.
    """

    teacher: Teacher | None = None

    @property
    def starts_from_teacher(self) -> bool:
        return self.teacher is not None

    def __call__(
        self, recipe: Recipe, models: Models, data: Batch, draws: StepDraws, step: int, num_steps: int
    ) -> LossTerms:
        pairs = training_pairs(recipe, models, data, draws, step, num_steps)
        lower, upper = pairs.states(recipe.process)
        with torch.no_grad():
            at_end = per_example(pairs.sigma_lower <= recipe.process.sigma_min, lower)
            target = torch.where(at_end, pairs.ends.data, models.online(lower, pairs.sigma_lower, draws.dropout_seed))
        output = models.online(upper, pairs.sigma_upper, draws.dropout_seed)

        weight = recipe.weighting.weight(pairs.sigma_lower, pairs.sigma_upper)
        batch_size = data.shape[0]
        return LossTerms(
            loss=mean_loss(recipe.distance(output, target), weight),
            forward_units=4 * batch_size + num_generated(recipe, draws, batch_size, step / num_steps),
        )
