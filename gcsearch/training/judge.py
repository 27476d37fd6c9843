"""Evaluation of a training: the scores of the averaged and the online weights, and the sample grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gcsearch.config import Experiment
from gcsearch.data import Examples
from gcsearch.metrics.evaluate import Evaluator
from gcsearch.metrics.grid import write_png
from gcsearch.metrics.reference import default_cache_dir, reference_features
from gcsearch.science.objectives import Models

GRID_SAMPLES = 64
"""Samples in a grid; always the first of the common latents, so that grids of different runs can be compared."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Scores at one point of a training.

    Attributes:
        scores: Values under their full names, e.g. ``eval/fid``; NaN where the network's output was not finite.
        identities: What each of them means; only equal identities may be compared.
        collapsed: Whether all samples are the same.
    """

    scores: dict[str, float]
    identities: dict[str, str]
    collapsed: bool


class Judge:
    """Scores networks of one experiment; the reference is computed once and cached.

    Args:
        experiment: Gives data, metrics, sampler and seed of the latents.
        examples: The data set.
        device: Where to evaluate.
    """

    def __init__(self, experiment: Experiment, examples: Examples, device: torch.device) -> None:
        evaluation, extractor = experiment.evaluation, experiment.extractor
        self.evaluator = Evaluator(
            metrics=evaluation.metrics,
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

    def __call__(self, models: Models) -> Judgement:
        """Score the averaged weights (``eval/<metric>``) and the current ones (``eval/<metric>_online``)."""
        averaged = self.evaluator.evaluate(models.ema)
        online = self.evaluator.scores(models.online)
        scores = {f"eval/{name}": value for name, value in averaged.scores.items()}
        scores |= {f"eval/{name}_online": value for name, value in online.items()}
        identities = {
            f"eval/{name}{suffix}": text
            for name, text in self.evaluator.identities.items()
            for suffix in ("", "_online")
        }
        return Judgement(scores=scores, identities=identities, collapsed=averaged.collapsed)

    def write_grid(self, models: Models, path: Path) -> None:
        """Write the grid of the averaged weights' first samples, which are images."""
        write_png(path, self.evaluator.generate(models.ema, GRID_SAMPLES))
