"""Easy consistency tuning: consistency training that begins as denoising, from a trained denoiser or from scratch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gcsearch.science.objectives.base import Models, Recipe, objectives
from gcsearch.science.objectives.prepared import PairObjective, Pairs
from gcsearch.science.preconditioning import per_example
from gcsearch.science.shapes import Batch, DropoutSeed
from gcsearch.science.teachers import Teacher


@objectives.register("ect")
@dataclass(frozen=True, kw_only=True)
class EasyConsistencyTuning(PairObjective):
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

    def states_and_target(
        self, recipe: Recipe, models: Models, pairs: Pairs, dropout_seed: DropoutSeed
    ) -> tuple[Batch, Batch]:
        lower, upper = pairs.states(recipe.process)
        with torch.no_grad():
            at_end = per_example(pairs.sigma_lower <= recipe.process.sigma_min, lower)
            return upper, torch.where(at_end, pairs.ends.data, models.online(lower, pairs.sigma_lower, dropout_seed))
