"""The diagnostics of a coupling (`gcsearch.science.diagnostics`), measured again and again while a recipe trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gcsearch.metrics.base import ModelMetric, Subject, metrics
from gcsearch.science.couplings import Coupling, Independent
from gcsearch.science.denoisers import train_denoiser
from gcsearch.science.diagnostics import gradient_variance, ode_distance, path_deviation, transport_cost
from gcsearch.science.flows import Flow
from gcsearch.science.objectives import Pairs, end_points, training_pairs
from gcsearch.science.shapes import PerExample


@metrics.register("diagnostics")
@dataclass(frozen=True, kw_only=True)
class Diagnostics(ModelMetric):
    """How the coupling treats the training at this point: at its own weights, levels N(k), share mu and predictor.

    - `gradient_variance`: of the objective's gradient at the current weights, estimated between batches:
      V = 1 / (K - 1) sum_k ||g_k - mean g||^2 over K = `num_batches` batches of the training's size. Its relative error
      is at most sqrt(2 / (K - 1)) if gradients are normally distributed. Grows with lambda, so with the number of
      levels.
    - `transport_cost`: mean of ||x - z||^2 over the end points of the pairs.
    - `ode_distance`: mean of ||x_i - x_i^Phi|| over the pairs, for the flow of independent coupling: the data set's
      exact one, or that of a denoiser. Left out if there is neither (`denoiser_steps` is 0).
    - `path_deviation`: the proxy R, mean of ||x' - v||^2, with v from a denoiser trained for this coupling at this
      point, at levels drawn from the recipe's proposal, whatever N(k). Left out if `denoiser_steps` is 0.

    All trials with one evaluation seed and batch size are measured on the same batches, so their differences are
    paired. A denoiser that blows up in its own training says nothing about the recipe: the value is then left out.

    Attributes:
        num_batches: Batches to measure on, at least 2.
        denoiser_steps: Steps of each denoiser's training (see `train_denoiser`), with the experiment's network and
            batches of its size; 0 trains none. It is trained anew at every evaluation and costs three forwards of a
            batch per step, one or two denoisers.

    Source: GC v1 section 4.2 (i) to (iii); GC (ICML) Eq. 17 and 19.
    """

    num_batches: int = 16
    denoiser_steps: int = 0

    def __post_init__(self) -> None:
        if self.num_batches < 2:
            raise ValueError(f"num_batches must be at least 2, got {self.num_batches}")
        if self.denoiser_steps < 0:
            raise ValueError(f"denoiser_steps must be >= 0, got {self.denoiser_steps}")

    @property
    def keys(self) -> tuple[str, ...]:
        always = ("gradient_variance", "transport_cost", "ode_distance")
        return (*always, "path_deviation") if self.denoiser_steps else always

    def measure(self, subject: Subject) -> dict[str, float]:
        values = {"gradient_variance": gradient_variance(self._gradients(subject))}
        values["transport_cost"] = self._mean(lambda number: transport_cost(_pairs(subject, number).ends))
        flow = subject.flow
        if flow is None and self.denoiser_steps:
            flow = self._learned(subject, Independent())
        of_flows = {}
        if flow is not None:
            of_flows["ode_distance"] = self._mean(lambda number: ode_distance(_pairs(subject, number), flow))
        if self.denoiser_steps:
            own = self._learned(subject, subject.recipe.coupling)
            of_flows["path_deviation"] = self._mean(lambda number: _deviation(subject, number, own))
        # Bad weights make the cost of transport infinite as well; if that is finite, the flow is to blame.
        return values | {key: value for key, value in of_flows.items() if math.isfinite(value)}

    def _gradients(self, subject: Subject) -> Iterator[Sequence[Tensor]]:
        weights = [weight for weight in subject.models.online.network.parameters() if weight.requires_grad]
        for number in range(self.num_batches):
            data, draws = subject.batches(number)
            terms = subject.objective(subject.recipe, subject.models, data, draws, subject.step, subject.num_steps)
            # Not backward(): that would write into the gradients that the training holds.
            yield torch.autograd.grad(terms.loss, weights, materialize_grads=True)

    def _mean(self, values: Callable[[int], PerExample]) -> float:
        """Mean over the examples of all batches, each given by its number."""
        with torch.no_grad():
            return float(torch.cat([values(number).double() for number in range(self.num_batches)]).mean())

    def _learned(self, subject: Subject, coupling: Coupling) -> Flow:
        """The flow of a coupling, from a denoiser that never sees the batches that are measured on."""
        return train_denoiser(
            subject.network,
            subject.event_shape,
            dataclasses.replace(subject.recipe, coupling=coupling),
            subject.models,
            lambda number: subject.batches(self.num_batches + number),
            num_steps=self.denoiser_steps,
            seed=subject.seed,
            device=subject.device,
            step=subject.step,
            horizon=subject.num_steps,
        )


def _pairs(subject: Subject, number: int) -> Pairs:
    """The pairs of one batch that the objective compares."""
    data, draws = subject.batches(number)
    return training_pairs(subject.recipe, subject.models, data, draws, subject.step, subject.num_steps)


def _deviation(subject: Subject, number: int, flow: Flow) -> PerExample:
    """Deviation of the paths of one batch, with end points predicted at the level where slopes are compared."""
    data, draws = subject.batches(number)
    recipe = subject.recipe
    sigma = recipe.levels.quantile(draws.level_uniforms, recipe.process)
    ends = end_points(recipe, subject.models, data, draws, sigma, subject.step / subject.num_steps)
    return path_deviation(ends, sigma, flow)
