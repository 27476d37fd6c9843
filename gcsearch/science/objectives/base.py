"""What every objective receives and returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gcsearch.registry import Component, Registry
from gcsearch.science.couplings import Coupling, EndPoints, Predictor, Unpaired
from gcsearch.science.distances import Distance
from gcsearch.science.flows import LearnedFlow
from gcsearch.science.networks import Network
from gcsearch.science.optimizers import Adam, Optimizer
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import Process
from gcsearch.science.randomness import StepDraws
from gcsearch.science.schedules import Levels, Timesteps, Weighting
from gcsearch.science.shapes import Batch, PerExample, Rows, Scalar
from gcsearch.science.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The scientific choices that an objective combines."""

    process: Process
    timesteps: Timesteps
    levels: Levels
    weighting: Weighting
    coupling: Coupling
    distance: Distance


@dataclass(frozen=True, kw_only=True)
class Models:
    """Consistency functions available in a step.

    Attributes:
        online: Current weights: the student with gradient, the teacher without.
        ema: Averaged weights, which are evaluated.
        predictor_ema: Averaged weights that generate end points, if those are not `ema`.
        predictor_online: Current weights that generate end points, if those are not `online`: a denoiser of a coupling
            is trained on end points of another network.
        frozen: Weights of another training that generate end points, if the coupling asks for them.
        target: Averaged weights that the student matches, if the objective keeps such an average.
        teacher: Trained denoiser D(x, sigma) = E[data | x], frozen, if the objective has one; its slope is that of
            `gcsearch.science.flows.LearnedFlow`.
        companion: The objective's own module, trained beside the network: see `Objective.companion`.
    """

    online: ConsistencyFunction
    ema: ConsistencyFunction
    predictor_ema: ConsistencyFunction | None = None
    predictor_online: ConsistencyFunction | None = None
    frozen: ConsistencyFunction | None = None
    target: ConsistencyFunction | None = None
    teacher: ConsistencyFunction | None = None
    companion: nn.Module | None = None

    @property
    def predictors(self) -> dict[str, Predictor]:
        """Networks that a coupling may generate end points with, by the name it uses."""
        predictors: dict[str, Predictor] = {
            "online": self.online if self.predictor_online is None else self.predictor_online,
            "ema": self.ema if self.predictor_ema is None else self.predictor_ema,
        }
        if self.frozen is not None:
            predictors["frozen"] = self.frozen
        return predictors


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """What an objective returns.

    Attributes:
        loss: Mean over the batch, to be minimised.
        forward_units: Cost of the step in network forwards of one example; forward + backward = 3. Of this process's
            share of the batch; the caller adds them up.
        beside: The companion's own loss, if it minimises another one than the network: also a mean over the batch. Its
            gradient reaches no other weights. The step minimises the sum.
    """

    loss: Scalar
    forward_units: int
    beside: Scalar | None = None


class Objective(Component, ABC):
    """A training objective, and what it trains: which function of the network, told what, beside which module.

    Attributes:
        needs_process: Name of the only process it is defined for; None if any will do.
        needs_whole_batch: Whether the loss of a batch is more than the mean over its parts, so that one process must
            see all of it.
        trains_trajectory: Whether `function` is a `gcsearch.science.trajectories.Trajectory`.
        teacher: Where the weights of `Models.teacher` come from; None for an objective without one.
    """

    needs_process: ClassVar[str | None] = None
    needs_whole_batch: ClassVar[bool] = False
    trains_trajectory: ClassVar[bool] = False

    teacher: Teacher | None = None

    @property
    def starts_from_teacher(self) -> bool:
        """Whether the student starts with the teacher's weights, not with random ones."""
        return False

    @property
    def keeps_target(self) -> bool:
        """Whether the objective needs `Models.target`, an average of the student's weights of its own."""
        return False

    def check(self, recipe: Recipe) -> None:
        """Nothing, if the objective can be trained with the other choices of a recipe.

        Raises:
            ValueError: It cannot.
        """
        del recipe

    def check_training(self, network: Network, event_shape: tuple[int, ...], num_images: int) -> None:
        """Nothing, if the objective can train such a network on examples of a shape, and all its parts have their turn.

        Raises:
            ValueError: It cannot, or one of them has not in `num_images` images.
        """
        del network, event_shape, num_images

    def target_decay(self, recipe: Recipe, step: int, num_steps: int) -> float:
        """Weight of the old average, in [0, 1), in the update of `Models.target` after step `step` (0-based).

        Asked for only if `keeps_target`.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no target.")

    @property
    def num_conditions(self) -> int:
        """Numbers per example that the network is told, the first being the level's c_noise."""
        return 1

    def function(self, network: nn.Module, process: Process, precision: str = "fp32") -> ConsistencyFunction:
        """The function of `network` that is trained, and that is sampled: the one place that says so."""
        return ConsistencyFunction(network, process, precision)

    def companion(self, event_shape: tuple[int, ...]) -> nn.Module | None:
        """A module that is trained beside the network and of no use afterwards, with weights from torch's generator.

        Its gradient comes from the same loss, or from one of its own (`LossTerms.beside`). It has an optimizer of its
        own, no average, and a place in checkpoints.
        """
        del event_shape
        return None

    @property
    def companion_optimizer(self) -> Optimizer:
        """Optimizer of the companion."""
        return Adam(lr=1e-3)

    @abstractmethod
    def __call__(
        self, recipe: Recipe, models: Models, data: Batch, draws: StepDraws, step: int, num_steps: int
    ) -> LossTerms:
        """Loss of one batch at `step` of `num_steps`.

        Args:
            recipe: Process, schedules, coupling, distance.
            models: Networks; only `models.online` gets a gradient.
            data: Clean examples.
            draws: All random numbers of the step.
            step: Steps done, 0-based.
            num_steps: Planned steps, the horizon of all schedules.
        """


objectives: Registry[Objective] = Registry("objective")


def end_points(
    recipe: Recipe, models: Models, data: Batch, draws: StepDraws, sigma: PerExample, progress: float
) -> EndPoints:
    """End points of the recipe's coupling; generated ones are predicted from states at `sigma`."""
    coupling = recipe.coupling
    noise, chosen = coupling.arrange(data, draws.noise), coupling.chosen(draws.selection, progress, draws.share)
    return paired(recipe, models, data, noise, chosen, sigma)


def paired(recipe: Recipe, models: Models, data: Batch, noise: Batch, chosen: Rows, sigma: PerExample) -> EndPoints:
    """The same where the coupling has arranged the noise and chosen the examples that get a generated end point."""
    batch = Unpaired(
        data=data,
        noise=noise,
        chosen=chosen,
        sigma_lower=sigma,
        process=recipe.process,
        predictors=models.predictors,
    )
    return recipe.coupling.pair(batch)


def num_generated(recipe: Recipe, draws: StepDraws, batch_size: int, progress: float) -> int:
    """How many of the `batch_size` examples of this share of a batch get a generated end point."""
    share = draws.share
    return share.of(recipe.coupling.num_generated(batch_size * share.count, progress))


def check_slope(slope: str, teacher: Teacher | None, starts_from_teacher: bool) -> None:
    """Reject a teacher that is missing, or that nothing uses, in an objective whose `slope` may be the teacher's."""
    if slope == "teacher" and teacher is None:
        raise ValueError("teacher must be given for slope: teacher")
    if starts_from_teacher and teacher is None:
        raise ValueError("teacher must be given for start: teacher")
    if teacher is not None and slope != "teacher" and not starts_from_teacher:
        raise ValueError("teacher must be null, or be used: set slope or start to teacher")


def flow_ends(models: Models, ends: EndPoints, noisy: Batch, sigma: PerExample, slope: str) -> EndPoints:
    """End points whose path has the slope to follow at `noisy`: the pair, or what the teacher expects them to be.

    Args:
        models: Gives the teacher.
        ends: The pair that `noisy` was made of.
        noisy: State at `sigma`.
        sigma: Level.
        slope: ``data`` or ``teacher``.
    """
    if slope == "data":
        return ends
    if models.teacher is None:
        raise TypeError("slope: teacher needs Models.teacher")
    expected = LearnedFlow(models.teacher).expectation(noisy, sigma)
    return EndPoints(data=expected.data, noise=expected.noise)


def mean_loss(distance: PerExample, weight: PerExample) -> Scalar:
    """Mean over the batch of lambda(sigma) D."""
    return (weight * distance).mean()
