"""Evaluation of a training: the scores of the averaged and the online weights, diagnostics, the sample grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from gcsearch.config import Experiment
from gcsearch.data import Examples
from gcsearch.files import default_cache_dir
from gcsearch.metrics.base import Subject
from gcsearch.metrics.evaluate import Evaluator
from gcsearch.metrics.grid import write_png
from gcsearch.metrics.reference import reference_features
from gcsearch.science.flows import Flow
from gcsearch.science.objectives import Models
from gcsearch.science.randomness import StepDraws, derive_seed, draw_diagnostics

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

    What it does changes neither the networks nor any later random number.

    Args:
        experiment: Gives data, metrics, sampler and seed of the latents.
        examples: The data set.
        device: Where to evaluate.
    """

    def __init__(self, experiment: Experiment, examples: Examples, device: torch.device) -> None:
        evaluation, extractor = experiment.evaluation, experiment.extractor
        self.experiment = experiment
        self.examples = examples
        self.device = device
        self.evaluator = Evaluator(
            metrics=evaluation.scores,
            extractor=extractor,
            sampler=evaluation.sampler,
            num_samples=evaluation.num_samples,
            seed=evaluation.seed,
            source=experiment.data.draw_source,
            reference=reference_features(extractor, examples.values, examples.sha256, device, default_cache_dir()),
            reference_name=experiment.data.name,
            is_image=examples.is_image,
            device=device,
        )

    def __call__(self, models: Models, step: int) -> Judgement:
        """Score the averaged weights (``eval/<key>``) and the current ones (``eval/<key>_online``), and diagnose.

        Args:
            models: Networks of the training.
            step: Its last step, 0-based, where the schedules stand for the diagnostics (``diagnostics/<key>``).
        """
        averaged = self.evaluator.evaluate(models.ema)
        online = self.evaluator.scores(models.online)
        scores = {f"eval/{name}": value for name, value in averaged.scores.items()}
        scores |= {f"eval/{name}_online": value for name, value in online.items()}
        if all(math.isfinite(value) for value in scores.values()):
            scores |= self.diagnose(models, step)
        identities = {
            f"eval/{name}{suffix}": text
            for name, text in self.evaluator.identities.items()
            for suffix in ("", "_online")
        }
        return Judgement(scores=scores, identities=identities, collapsed=averaged.collapsed)

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
