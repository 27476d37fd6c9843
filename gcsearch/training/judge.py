"""Evaluation of a training: the scores of the averaged and the online weights, diagnostics, the sample grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from gcsearch.config import Experiment
from gcsearch.data import Examples
from gcsearch.files import default_cache_dir
from gcsearch.metrics.base import Subject
from gcsearch.metrics.evaluate import Draws, Evaluator, Shard, piece_size, whole_batches
from gcsearch.metrics.grid import write_png
from gcsearch.metrics.reference import reference_features
from gcsearch.science.flows import Flow
from gcsearch.science.objectives import Models
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.randomness import StepDraws, derive_seed, draw_diagnostics
from gcsearch.science.samplers import Sampler
from gcsearch.training.distributed import Group

GRID_SAMPLES = 64
"""Samples in a grid; always the first of the common latents, so that grids of different runs can be compared."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Scores at one point of a training.

    Attributes:
        scores: Values under their full names, e.g. ``eval/fid`` and ``diagnostics/transport_cost``; NaN where the
            network's output was not finite.
        identities: What each score means; only equal identities may be compared. Diagnostics have none.
        collapsed: Whether all samples are the same.
    """

    scores: dict[str, float]
    identities: dict[str, str]
    collapsed: bool


class Judge:
    """Scores networks of one experiment; the reference is computed once and cached.

    What it does changes neither the networks nor any later random number. Where several processes train, each generates
    a share of the samples and computes their features; the first one turns the features of all into scores. A sample
    has the latents, and the batch, that it has in one process: on equal devices the scores are equal to the last bit.

    Args:
        experiment: Gives data, metrics, sampler and seed of the latents.
        examples: The data set.
        device: Where to evaluate.
        group: The processes, which all make a judge and call it; this one alone by default.
    """

    def __init__(
        self, experiment: Experiment, examples: Examples, device: torch.device, group: Group | None = None
    ) -> None:
        self.experiment = experiment
        self.examples = examples
        self.device = device
        self.group = Group() if group is None else group
        evaluation = experiment.evaluation
        self.draws = Draws(
            extractor=experiment.extractor,
            sampler=evaluation.sampler,
            seed=evaluation.seed,
            source=experiment.data.draw_source,
            is_image=examples.is_image,
            device=device,
            batch_size=piece_size(experiment.training.batch_size),
        )
        # Only the first process needs the features of the data.
        self._first_evaluator = self._make_evaluator() if self.group.is_first else None

    def _make_evaluator(self) -> Evaluator:
        draws, examples = self.draws, self.examples
        evaluation, extractor = self.experiment.evaluation, draws.extractor
        return Evaluator(
            metrics=evaluation.scores,
            extractor=extractor,
            sampler=draws.sampler,
            num_samples=evaluation.num_samples,
            seed=draws.seed,
            source=draws.source,
            reference=reference_features(extractor, examples.values, examples.sha256, self.device, default_cache_dir()),
            reference_name=self.experiment.data.name,
            is_image=draws.is_image,
            device=self.device,
            batch_size=draws.batch_size,
        )

    @property
    def evaluator(self) -> Evaluator:
        """Protocol of the scores; the first process has it."""
        assert self._first_evaluator is not None
        return self._first_evaluator

    def __call__(self, models: Models, step: int) -> Judgement:
        """Score the averaged weights (``eval/<key>``) and the current ones (``eval/<key>_online``), and diagnose.

        Further samplers draw from the averaged weights (``eval/<key>_2step``).

        Args:
            models: Networks of the training.
            step: Its last step, 0-based, where the schedules stand for the diagnostics (``diagnostics/<key>``).
        """
        kinds = {name: (models.ema, sampler) for name, sampler in self.experiment.evaluation.samplers.items()}
        kinds["_online"] = (models.online, self.draws.sampler)
        shares = self.group.gather([self._share(function, sampler) for function, sampler in kinds.values()])
        samplers = {name: sampler for name, (_, sampler) in kinds.items()}
        return self.group.from_first(lambda: self._judgement(models, step, shares, samplers))

    def _share(self, function: ConsistencyFunction, sampler: Sampler) -> Shard | None:
        """This process's part of the samples; None if there are fewer batches than processes."""
        parts = whole_batches(self.experiment.evaluation.num_samples, self.draws.batch_size, self.group.size)
        rank = self.group.rank
        return self.draws.shard(function, *parts[rank], sampler) if rank < len(parts) else None

    def _judgement(
        self, models: Models, step: int, shares: list[list[Shard | None]], samplers: Mapping[str, Sampler]
    ) -> Judgement:
        """Scores from all processes' shares of the samples.

        Args:
            models: Networks of the training.
            step: Its last step.
            shares: Of each process: its share of the samples of each kind.
            samplers: What drew each kind; their names are the ends of the scores' names.
        """
        merged = {
            name: self.evaluator.merge([share for share in parts if share is not None])
            for name, parts in zip(samplers, zip(*shares, strict=True), strict=True)
        }
        scores = {f"eval/{key}{name}": value for name, one in merged.items() for key, value in one.scores.items()}
        if all(math.isfinite(value) for value in scores.values()):
            scores |= self.diagnose(models, step)
        identities = {
            f"eval/{key}{name}": text
            for name, sampler in samplers.items()
            for key, text in self.evaluator.identities_with(sampler).items()
        }
        return Judgement(scores=scores, identities=identities, collapsed=merged[""].collapsed)

    def diagnose(self, models: Models, step: int) -> dict[str, float]:
        """Values of the diagnostics, under their full names."""
        experiment = self.experiment
        if not experiment.evaluation.diagnostics:
            return {}
        subject = Subject(
            objective=experiment.objective,
            recipe=experiment.recipe,
            network=experiment.network,
            event_shape=experiment.data.event_shape,
            models=models,
            step=step,
            num_steps=experiment.training.num_steps,
            batches=self._batch,
            flow=self._flow,
            seed=derive_seed(experiment.evaluation.seed, "diagnostics"),
            device=self.device,
        )
        return {
            f"{metric.section}/{key}": value
            for metric in experiment.evaluation.diagnostics
            for key, value in metric.measure(subject).items()
        }

    def _batch(self, number: int) -> tuple[Tensor, StepDraws]:
        """Diagnostic batch `number`."""
        experiment = self.experiment
        indices, draws = draw_diagnostics(
            experiment.evaluation.seed,
            number,
            experiment.training.batch_size,
            len(self.examples),
            experiment.data.draw_source,
        )
        return Examples(self.examples.select(indices)).scaled().to(self.device), draws.to(self.device)

    @cached_property
    def _flow(self) -> Flow | None:
        return self.experiment.data.ideal_flow(self.experiment.process)

    def write_grid(self, models: Models, path: Path) -> None:
        """Write the grid of the averaged weights' first samples, which are images."""
        write_png(path, self.evaluator.generate(models.ema, GRID_SAMPLES))
