"""Consistency training as first published: the target is an average of the student's weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gcsearch.science.objectives.base import Models, Recipe, objectives
from gcsearch.science.objectives.prepared import PairObjective, Pairs
from gcsearch.science.schedules import GridTimesteps
from gcsearch.science.shapes import Batch, DropoutSeed


@objectives.register("original_consistency")
@dataclass(frozen=True, kw_only=True)
class OriginalConsistency(PairObjective):
    """Consistency training with averaged weights as the teacher: as `consistency`, but for the target.

    L = mean of lambda(sigma_i, sigma_{i+1}) D(sg f^-(x_i, sigma_i), f(x_{i+1}, sigma_{i+1})),
    theta^- <- mu(k) theta^- + (1 - mu(k)) theta after step k, mu(k) = exp(s0 ln(mu) / (N(k) - 1))

    N(k) is the number of levels of the recipe's grid, so the average forgets the more slowly the finer the grid is.
    What else the first publication chose is a component each: timesteps ``square_root``, levels ``uniform``, weighting
    ``uniform``, distance ``lpips`` (or ``l2``, ``l1``), optimizer ``radam``.

    Attributes:
        mu: Decay per step where the grid has s0 intervals, in (0, 1). CM has 0.9 on CIFAR-10, 0.95 on larger images.
        s0: Intervals of that grid, at least 1; CM starts with 2.

    Source: CM Algorithm 3 and section 6; its code counts N(k) - 1 intervals where the paper writes N(k).
    """

    mu: float = 0.9
    s0: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.mu < 1:
            raise ValueError(f"mu must be in (0, 1), got {self.mu}")
        if self.s0 < 1:
            raise ValueError(f"s0 must be at least 1, got {self.s0}")

    @property
    def keeps_target(self) -> bool:
        return True

    def check(self, recipe: Recipe) -> None:
        if not isinstance(recipe.timesteps, GridTimesteps):
            raise ValueError(
                f"needs a grid of levels, whose number sets the decay of its target, got the timesteps "
                f"'{recipe.timesteps.name}'"
            )

    def target_decay(self, recipe: Recipe, step: int, num_steps: int) -> float:
        if not isinstance(recipe.timesteps, GridTimesteps):
            raise TypeError("original consistency training needs a grid of levels")
        return float(self.mu ** (self.s0 / (recipe.timesteps.levels_at(step, num_steps) - 1)))

    def states_and_target(
        self, recipe: Recipe, models: Models, pairs: Pairs, dropout_seed: DropoutSeed
    ) -> tuple[Batch, Batch]:
        if models.target is None:
            raise TypeError("original consistency training needs Models.target")
        lower, upper = pairs.states(recipe.process)
        with torch.no_grad():
            return upper, models.target(lower, pairs.sigma_lower, dropout_seed)
