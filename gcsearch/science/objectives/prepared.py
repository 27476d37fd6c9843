"""Objectives whose loss is a function of tensors alone, and the pairs of states that most of them compare."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch

from gcsearch.science.couplings import EndPoints
from gcsearch.science.dropout import seed_tensor
from gcsearch.science.objectives.base import LossTerms, Models, Objective, Recipe, end_points, mean_loss, paired
from gcsearch.science.process import Process
from gcsearch.science.randomness import StepDraws
from gcsearch.science.shapes import Batch, DropoutSeed, PerExample, Rows, Scalar


@dataclass(frozen=True, kw_only=True)
class PreparedBatch:
    """A batch, or a share of one, ready for the networks: what depends on the number of its step is a tensor here.

    Attributes:
        data: Clean examples.
        noise: Source samples, as the coupling has arranged them.
        chosen: Examples that get a generated end point.
        levels: Levels of each example; generated end points are predicted from states at the first.
        progress: step / num_steps, in [0, 1), float64.
        dropout_seed: Seed of the dropout mask that student and teacher share.
    """

    data: Batch
    noise: Batch
    chosen: Rows
    levels: tuple[PerExample, ...]
    progress: Scalar
    dropout_seed: DropoutSeed

    def end_points(self, recipe: Recipe, models: Models) -> EndPoints:
        """End points of the recipe's coupling."""
        return paired(recipe, models, self.data, self.noise, self.chosen, self.levels[0])


class TensorObjective(Objective):
    """An objective whose loss is one function of tensors at every step, differentiated once: it can be compiled whole.

    `loss` may neither read a tensor on the host nor depend on anything else that changes from step to step: one graph
    serves all of a training. What does depend on the step comes with the `PreparedBatch`.
    """

    @property
    @abstractmethod
    def forwards(self) -> int:
        """Network forwards per example, beside those of the coupling; forward + backward = 3."""

    @abstractmethod
    def loss(self, recipe: Recipe, models: Models, batch: PreparedBatch) -> Scalar:
        """Mean loss of one batch; only `models.online` and `models.companion` get a gradient."""

    def draw_levels(self, recipe: Recipe, uniforms: PerExample, step: int, num_steps: int) -> tuple[PerExample, ...]:
        """Levels of each example at `step`; here one of the recipe's proposal."""
        del step, num_steps
        return (recipe.levels.quantile(uniforms, recipe.process),)

    def prepare(self, recipe: Recipe, data: Batch, draws: StepDraws, step: int, num_steps: int) -> PreparedBatch:
        """All that `loss` needs; for the arguments see `Objective.__call__`."""
        coupling, progress, seed = recipe.coupling, step / num_steps, draws.dropout_seed
        return PreparedBatch(
            data=data,
            noise=coupling.arrange(data, draws.noise),
            chosen=coupling.chosen(draws.selection, progress, draws.share),
            levels=self.draw_levels(recipe, draws.level_uniforms, step, num_steps),
            progress=torch.full((), progress, dtype=torch.float64, device=data.device),
            dropout_seed=seed_tensor(seed, data.device) if isinstance(seed, int) else seed,
        )

    def units(self, batch: PreparedBatch) -> int:
        """`LossTerms.forward_units` of a batch."""
        return self.forwards * batch.data.shape[0] + batch.chosen.shape[0]

    def __call__(
        self, recipe: Recipe, models: Models, data: Batch, draws: StepDraws, step: int, num_steps: int
    ) -> LossTerms:
        batch = self.prepare(recipe, data, draws, step, num_steps)
        return LossTerms(loss=self.loss(recipe, models, batch), forward_units=self.units(batch))


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A batch of pairs of states on the paths between coupled end points: what consistency training compares.

    Attributes:
        ends: End points of each path.
        sigma_lower: Level of the teacher's state.
        sigma_upper: Level of the student's state.
    """

    ends: EndPoints
    sigma_lower: PerExample
    sigma_upper: PerExample

    def states(self, process: Process) -> tuple[Batch, Batch]:
        """States at the lower and at the upper level."""
        data, noise = self.ends.data, self.ends.noise
        return process.add_noise(data, noise, self.sigma_lower), process.add_noise(data, noise, self.sigma_upper)


class PairObjective(TensorObjective):
    """An objective that compares pairs of states at the recipe's levels.

    L = mean of lambda(sigma_i, sigma_{i+1}) D(target, f(x_{i+1}, sigma_{i+1}))
    """

    @property
    def forwards(self) -> int:
        """A forward for the target, forward and backward for the student."""
        return 4

    def draw_levels(
        self, recipe: Recipe, uniforms: PerExample, step: int, num_steps: int
    ) -> tuple[PerExample, PerExample]:
        return recipe.timesteps.pair(uniforms, recipe.process, recipe.levels, step, num_steps)

    def pairs(self, recipe: Recipe, models: Models, batch: PreparedBatch) -> Pairs:
        """The pairs of a batch."""
        sigma_lower, sigma_upper = batch.levels
        return Pairs(ends=batch.end_points(recipe, models), sigma_lower=sigma_lower, sigma_upper=sigma_upper)

    @abstractmethod
    def states_and_target(
        self, recipe: Recipe, models: Models, pairs: Pairs, dropout_seed: DropoutSeed
    ) -> tuple[Batch, Batch]:
        """The student's state, and what it has to match, without gradient."""

    def loss(self, recipe: Recipe, models: Models, batch: PreparedBatch) -> Scalar:
        pairs = self.pairs(recipe, models, batch)
        upper, target = self.states_and_target(recipe, models, pairs, batch.dropout_seed)
        output = models.online(upper, pairs.sigma_upper, batch.dropout_seed)
        weight = recipe.weighting.weight(pairs.sigma_lower, pairs.sigma_upper)
        return mean_loss(recipe.distance(output, target), weight)


def training_pairs(recipe: Recipe, models: Models, data: Batch, draws: StepDraws, step: int, num_steps: int) -> Pairs:
    """Pairs that the recipe trains on at `step`; for the arguments see `Objective.__call__`."""
    sigma_lower, sigma_upper = recipe.timesteps.pair(
        draws.level_uniforms, recipe.process, recipe.levels, step, num_steps
    )
    ends = end_points(recipe, models, data, draws, sigma_lower, step / num_steps)
    return Pairs(ends=ends, sigma_lower=sigma_lower, sigma_upper=sigma_upper)
