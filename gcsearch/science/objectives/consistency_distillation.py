"""Consistency distillation: the student matches itself along the steps that a frozen teacher takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from gcsearch.science.flows import LearnedFlow, solver_step
from gcsearch.science.objectives.base import Models, Recipe, objectives
from gcsearch.science.objectives.prepared import PairObjective, Pairs
from gcsearch.science.shapes import Batch, DropoutSeed
from gcsearch.science.teachers import Teacher, Trained


@objectives.register("consistency_distillation")
@dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation(PairObjective):
    """Consistency distillation: as `consistency`, but the lower state is the teacher's ODE step from the upper one.

    L = mean of lambda(sigma_i, sigma_{i+1}) D(sg f(x_i^Phi, sigma_i), f(x_{i+1}, sigma_{i+1})),
    x_i^Phi = one step of the teacher's probability flow from x_{i+1} = a data + b noise down to sigma_i

    The step is `gcsearch.science.flows.solver_step`. A teacher that knew the clean example, D(x, sigma) = data, would
    step to the very state that consistency training uses, and the two losses would be equal. Zero for the exact
    consistency map of the teacher's flow, up to the error of the solver.

    Attributes:
        teacher: Trained denoiser; see `gcsearch.science.teachers`.
        solver: ``euler`` asks the teacher once per example, ``heun`` twice, with an error of one order higher.
        start: Weights of the student: ``teacher``, for which both need the same network, or ``random``.
        target_ema: Decay per step of the averaged weights that give the target, in [0, 1); 0 takes the current ones.

    Source: CM Algorithm 2 and Eq. 7; Heun's step as in its code. CM's runs have N = 18 with LPIPS on CIFAR-10, and
    N = 40 with an average of decay 0.95 on larger images.
    """

    teacher: Teacher = field(default_factory=Trained)
    solver: Literal["euler", "heun"] = "heun"
    start: Literal["teacher", "random"] = "teacher"
    target_ema: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.target_ema < 1:
            raise ValueError(f"target_ema must be in [0, 1), got {self.target_ema}")

    @property
    def starts_from_teacher(self) -> bool:
        return self.start == "teacher"

    @property
    def keeps_target(self) -> bool:
        return self.target_ema > 0

    def target_decay(self, recipe: Recipe, step: int, num_steps: int) -> float:
        del recipe, step, num_steps
        return self.target_ema

    @property
    def forwards(self) -> int:
        """As of any pairs, and the teacher's."""
        return super().forwards + (2 if self.solver == "heun" else 1)

    def states_and_target(
        self, recipe: Recipe, models: Models, pairs: Pairs, dropout_seed: DropoutSeed
    ) -> tuple[Batch, Batch]:
        if models.teacher is None:
            raise TypeError("consistency distillation needs Models.teacher")
        upper = recipe.process.add_noise(pairs.ends.data, pairs.ends.noise, pairs.sigma_upper)
        lower = solver_step(LearnedFlow(models.teacher), upper, pairs.sigma_upper, pairs.sigma_lower, self.solver)
        with torch.no_grad():
            return upper, (models.target or models.online)(lower, pairs.sigma_lower, dropout_seed)
