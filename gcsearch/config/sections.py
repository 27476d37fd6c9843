"""Sections of an experiment: how it is trained, and how it is evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from gcsearch.errors import suggestion
from gcsearch.metrics import Metric, ModelMetric, SampleMetric, extractors
from gcsearch.metrics.fid import FID
from gcsearch.metrics.kid import KID
from gcsearch.science.samplers import OneStep, Sampler


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and how to train.

    Attributes:
        num_images: Horizon: images seen by a full training. Every schedule is a function of images / num_images.
        batch_size: Images per step, over all workers.
        precision: Arithmetic inside the network.
        compile: Compile a step with torch.compile: loss and gradient to one graph, what follows to another. Not for
            every objective: `gcsearch.science.objectives.TensorObjective`.
        num_workers: Processes that share every batch. They train as one process would, up to the order of additions,
            so this is how a recipe is run and no part of it: fingerprints leave it out.
    """

    num_images: int = 512_000
    batch_size: int = 128
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    num_workers: int = 1

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "num_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size > self.num_images:
            raise ValueError(f"batch_size must be at most num_images = {self.num_images}, got {self.batch_size}")
        if self.batch_size % self.num_workers:
            raise ValueError(
                f"batch_size must be a multiple of num_workers = {self.num_workers}, got {self.batch_size}"
            )

    @property
    def num_steps(self) -> int:
        """Optimizer steps of a full training; the last may go past num_images by less than a batch."""
        return math.ceil(self.num_images / self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How trainings are judged.

    Attributes:
        every_images: Images between evaluations; these points are the rungs of a search. The end is always one.
        num_samples: Generated samples per evaluation.
        metrics: Scores to compute, and diagnostics. The first must be a score: its best weights are kept.
        sampler: How samples are drawn.
        further_samplers: Also draw in these ways, from the same latents, and score the averaged weights under
            ``eval/<key>_<evaluations>step``, e.g. ``eval/fid_2step``.
        extractor: Feature extractor; ``auto`` takes the data set's own.
        seed: Seed of the latents, which every trial of a study shares.
    """

    every_images: int = 64_000
    num_samples: int = 2_000
    metrics: tuple[Metric, ...] = (FID(), KID())
    sampler: Sampler = field(default_factory=OneStep)
    further_samplers: tuple[Sampler, ...] = ()
    extractor: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.every_images < 1:
            raise ValueError(f"every_images must be at least 1, got {self.every_images}")
        if self.num_samples < 16:
            raise ValueError(f"num_samples must be at least 16, got {self.num_samples}")
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"metrics must name at least one metric and none twice, got {names}")
        if not isinstance(self.metrics[0], SampleMetric):
            raise ValueError(
                f"metrics must begin with a score of samples, whose best weights are kept, got {names}. Put fid or "
                f"kid before {names[0]}"
            )
        keys = [f"{metric.section}/{key}" for metric in self.metrics for key in metric.keys]
        if len(set(keys)) < len(keys):
            raise ValueError(f"metrics must have different keys, got {keys}")
        evaluations = [sampler.num_evaluations for sampler in (self.sampler, *self.further_samplers)]
        if len(set(evaluations)) < len(evaluations):
            raise ValueError(
                "further_samplers must differ from sampler and each other in their numbers of network evaluations, "
                f"which name the scores, got {evaluations[1:]} beside {evaluations[0]}"
            )
        for metric in self.scores:
            if self.num_samples < metric.min_samples:
                raise ValueError(
                    f"num_samples must be at least {metric.min_samples} for the metric '{metric.name}', "
                    f"got {self.num_samples}"
                )
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if self.extractor not in ("auto", *extractors):
            known = suggestion(self.extractor, ("auto", *extractors)).removesuffix(".")
            raise ValueError(f"extractor must be auto or a feature extractor, got {self.extractor!r}. {known}")

    @property
    def scores(self) -> tuple[SampleMetric, ...]:
        """Metrics of generated samples, in order; the first decides which weights are the best."""
        return tuple(metric for metric in self.metrics if isinstance(metric, SampleMetric))

    @property
    def samplers(self) -> dict[str, Sampler]:
        """Every sampler, by the end of its scores' names: nothing for `sampler`, ``_2step`` for a further one."""
        return {"": self.sampler} | {f"_{one.num_evaluations}step": one for one in self.further_samplers}

    @property
    def score_keys(self) -> dict[str, SampleMetric]:
        """Name of every score without its ``eval/``, and its metric."""
        endings = ("", "_online", *list(self.samplers)[1:])
        return {f"{key}{ending}": metric for metric in self.scores for key in metric.keys for ending in endings}

    @property
    def diagnostics(self) -> tuple[ModelMetric, ...]:
        """Metrics of the networks themselves, in order."""
        return tuple(metric for metric in self.metrics if isinstance(metric, ModelMetric))
