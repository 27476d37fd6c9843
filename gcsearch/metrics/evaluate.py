"""From a consistency function to scores, under one protocol that every trial shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import torch
from torch import Tensor

from gcsearch.metrics.base import SampleMetric
from gcsearch.metrics.features import Extractor
from gcsearch.metrics.identity import SEPARATOR, ScoreIdentity, describe
from gcsearch.metrics.reference import ReferenceFeatures, extract
from gcsearch.science.images import to_bytes
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.randomness import NoiseSource, evaluation_latents
from gcsearch.science.samplers import Sampler

COLLAPSE_BYTES: Final = 1.0
"""Images of a smaller spread count as constant. The skip connection lets 0.4 levels of the latents through at the
default sigma_max, even if the network ignores its input; rounding makes that up to 0.5."""

COLLAPSE_SHARE: Final = 0.02
"""Points of a spread below this share of the data's count as constant."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of one evaluation.

    Attributes:
        samples: Generated examples on the CPU: uint8 images, or float32 points.
        scores: Value under every key of every metric; NaN where the network's output was not finite.
        collapsed: Whether all samples are (nearly) the same.
    """

    samples: Tensor
    scores: dict[str, float]
    collapsed: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluator:
    """Generates from common latents and scores the result.

    Sample i starts from latents that depend on (seed, i) only: all trials of a study, on any device and at any batch
    size, are judged on the same draws, which removes most of the sampling noise from their differences.

    Attributes:
        metrics: Metrics to compute; their keys must not overlap.
        extractor: Feature space of all of them.
        sampler: From latents to examples.
        num_samples: Generated examples per evaluation.
        seed: Evaluation seed of the study.
        source: Draws source samples; always called with CPU generators.
        reference: Features of the data under the same extractor.
        reference_name: Word for the data in identities, e.g. the data set's name.
        is_image: Whether samples are images, which are clipped and rounded to bytes before they are scored.
        device: Where the network and the extractor run.
        batch_size: Examples per call of the network; changes memory and speed, not the latents.
    """

    metrics: Sequence[SampleMetric]
    extractor: Extractor
    sampler: Sampler
    num_samples: int
    seed: int
    source: NoiseSource
    reference: ReferenceFeatures
    reference_name: str
    is_image: bool
    device: torch.device | str = "cpu"
    batch_size: int = 500

    def __post_init__(self) -> None:
        keys = [key for metric in self.metrics for key in metric.keys]
        if len(set(keys)) < len(keys):
            raise ValueError(f"metrics must have different keys, got {keys}")
        if self.num_samples < 4:
            raise ValueError(f"num_samples must be at least 4, got {self.num_samples}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if SEPARATOR in self.reference_name:
            raise ValueError(f"reference_name must not contain '{SEPARATOR}', got '{self.reference_name}'")

    @cached_property
    def _features(self) -> Callable[[Tensor], Tensor]:
        return self.extractor.load(self.device)

    @property
    def identities(self) -> dict[str, str]:
        """Canonical score identity of every key."""
        identities = {}
        data = f"{self.reference_name}@{self.reference.examples_sha256[:12]} x{self.reference.count}"
        for metric in self.metrics:
            settings = describe(metric).removeprefix(metric.name)
            for key in metric.keys:
                identities[key] = str(
                    ScoreIdentity(
                        metric=key + settings,
                        extractor=self.extractor.identity,
                        reference=data,
                        num_samples=self.num_samples,
                        sampler=describe(self.sampler),
                        quantisation="clip_round_uint8" if self.is_image else "none",
                    )
                )
        return identities

    def generate(self, function: ConsistencyFunction, num: int | None = None) -> Tensor:
        """First `num` samples (default: as many as are scored) on the CPU: uint8 images, or float32 points."""
        return torch.cat([samples for samples, _ in self._batches(function, self.num_samples if num is None else num)])

    def scores(self, function: ConsistencyFunction) -> dict[str, float]:
        """Value under every key of every metric."""
        return self.evaluate(function).scores

    def evaluate(self, function: ConsistencyFunction) -> Evaluation:
        """Samples and scores in one pass."""
        batches = list(self._batches(function, self.num_samples))
        samples = torch.cat([batch for batch, _ in batches])
        # Bytes cannot say NaN, so images that are not finite are caught before they become bytes.
        is_finite = all(bool(flag) for _, flag in batches)
        scores = self.score(samples) if is_finite else self._undefined()
        return Evaluation(samples=samples, scores=scores, collapsed=self.collapsed(samples))

    def score(self, samples: Tensor) -> dict[str, float]:
        """Scores of examples that already exist, e.g. a folder of images."""
        features = extract(self._features, samples, self.device)
        return {
            key: value for metric in self.metrics for key, value in metric.compute(features, self.reference).items()
        }

    def collapsed(self, samples: Tensor) -> bool:
        """Whether all samples are nearly the same; training treats it as divergence.

        Spread is the root of the variance over samples, averaged over elements. For points it is compared with the
        data's, which the reference knows because points are their own features.
        """
        spread = samples.double().flatten(1).var(dim=0).mean().sqrt()
        data_spread = self.reference.covariance.diagonal().mean().sqrt()
        threshold = COLLAPSE_BYTES if self.is_image else COLLAPSE_SHARE * data_spread
        return not bool(spread > threshold)  # so that NaN counts as collapsed

    def _batches(self, function: ConsistencyFunction, num: int) -> Iterator[tuple[Tensor, Tensor]]:
        return _sample_batches(
            function,
            self.sampler,
            num,
            seed=self.seed,
            source=self.source,
            is_image=self.is_image,
            device=self.device,
            batch_size=self.batch_size,
        )

    def _undefined(self) -> dict[str, float]:
        return {key: value for metric in self.metrics for key, value in metric.undefined().items()}


def generate(
    function: ConsistencyFunction,
    sampler: Sampler,
    num: int,
    *,
    seed: int,
    source: NoiseSource,
    is_image: bool,
    device: torch.device | str = "cpu",
    batch_size: int = 500,
) -> Tensor:
    """First `num` samples of the common latents of `seed`, on the CPU: uint8 images, or float32 points."""
    batches = _sample_batches(
        function, sampler, num, seed=seed, source=source, is_image=is_image, device=device, batch_size=batch_size
    )
    return torch.cat([samples for samples, _ in batches])


def _sample_batches(
    function: ConsistencyFunction,
    sampler: Sampler,
    num: int,
    *,
    seed: int,
    source: NoiseSource,
    is_image: bool,
    device: torch.device | str,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of samples on the CPU, and whether the network's output was finite."""
    for start in range(0, num, batch_size):
        stop = min(start + batch_size, num)
        latents = partial(evaluation_latents, seed, start, stop, source)
        # Not inference mode: a tensor that a network caches there could not take part in training later.
        with torch.no_grad():
            output = sampler(function, lambda stage, latents=latents: latents(stage).to(device))  # type: ignore[misc]
        yield (to_bytes(output) if is_image else output.float()).cpu(), output.isfinite().all()
