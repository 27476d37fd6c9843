"""From a consistency function to scores, under one protocol that every trial shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from gcsearch.metrics.base import SampleMetric
from gcsearch.metrics.features import Extractor
from gcsearch.metrics.identity import describe
from gcsearch.metrics.reference import BATCH_SIZE, ReferenceFeatures, extract
from gcsearch.metrics.scoring import Scorer
from gcsearch.science.images import to_bytes
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.randomness import NoiseSource, evaluation_latents
from gcsearch.science.samplers import Sampler

COLLAPSE_BYTES: Final = 1.0
"""Images of a smaller spread count as constant. The skip connection lets 0.4 levels of the latents through at the
default sigma_max, even if the network ignores its input; rounding makes that up to 0.5."""

COLLAPSE_SHARE: Final = 0.02
"""Points of a spread below this share of the data's count as constant."""

COLUMNS: Final = 64
"""Elements whose spread is computed at once: 26 MB of float64 for 50,000 samples."""

MAX_PIECE: Final = 512
"""Examples at once that keep any device busy."""


def piece_size(batch_size: int) -> int:
    """Samples at once in the evaluations of a training whose steps have `batch_size` examples.

    Four times as many, and at most `MAX_PIECE`. A forward without gradient holds the activations of a layer or two, a
    step those of all layers: in the recipes' networks 8 to 10 times as much per example, in a U-Net of few layers 4
    times. So an evaluation needs no more than a step. More are hardly faster: per digit, calls of 64 take 2 times as
    long as calls of 256, which take as long as calls of 512.
    """
    return min(4 * batch_size, MAX_PIECE)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of one evaluation.

    Attributes:
        samples: Generated examples on the CPU: uint8 images, or float32 points.
        features: Their features, (N, d).
        scores: Value under every key of every metric; NaN where the network's output was not finite.
        collapsed: Whether all samples are (nearly) the same.
    """

    samples: Tensor
    features: Tensor
    scores: dict[str, float]
    collapsed: bool


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some of the samples of an evaluation, all on the CPU.

    Attributes:
        samples: uint8 images, or float32 points.
        features: Their features, (N, d).
        is_finite: Whether the network's output was finite; bytes cannot say NaN.
    """

    samples: Tensor
    features: Tensor
    is_finite: bool


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
        batch_size: Examples per call of the network and of the extractor; changes memory and speed, not the latents.
            `piece_size` gives that of a training.
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
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        if self.num_samples < self.scorer.min_samples:
            raise ValueError(f"num_samples must be at least {self.scorer.min_samples}, got {self.num_samples}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    @cached_property
    def scorer(self) -> Scorer:
        """The half that needs no network."""
        return Scorer(
            metrics=self.metrics,
            extractor=self.extractor,
            reference=self.reference,
            reference_name=self.reference_name,
        )

    @cached_property
    def draws(self) -> Draws:
        """The half that needs no reference."""
        return Draws(
            extractor=self.extractor,
            sampler=self.sampler,
            seed=self.seed,
            source=self.source,
            is_image=self.is_image,
            device=self.device,
            batch_size=self.batch_size,
        )

    @property
    def identities(self) -> dict[str, str]:
        """Canonical score identity of every key."""
        return self.identities_with(self.sampler)

    def identities_with(self, sampler: Sampler) -> dict[str, str]:
        """The same where another sampler draws."""
        return self.scorer.identities(
            num_samples=self.num_samples,
            sampler=describe(sampler),
            quantisation="clip_round_uint8" if self.is_image else "none",
        )

    def generate(self, function: ConsistencyFunction, num: int | None = None) -> Tensor:
        """First `num` samples (default: as many as are scored) on the CPU: uint8 images, or float32 points."""
        return self.draws.samples(function, 0, self.num_samples if num is None else num)

    def scores(self, function: ConsistencyFunction) -> dict[str, float]:
        """Value under every key of every metric."""
        return self.evaluate(function).scores

    def evaluate(self, function: ConsistencyFunction) -> Evaluation:
        """Samples and scores in one pass."""
        return self.merge([self.draws.shard(function, 0, self.num_samples)])

    def bounds(self, num_shards: int) -> list[tuple[int, int]]:
        """First and one past the last sample of each of at most `num_shards` shards.

        Shards are whole batches, so that every sample is computed in the same company, and with the same rounding, for
        any number of shards.
        """
        return whole_batches(self.num_samples, self.batch_size, num_shards)

    def merge(self, shards: Sequence[Shard]) -> Evaluation:
        """Evaluation of all samples, from shards in their order."""
        samples = _joined([shard.samples for shard in shards])
        features = _joined([shard.features for shard in shards])
        is_finite = all(shard.is_finite for shard in shards)
        return Evaluation(
            samples=samples,
            features=features,
            scores=self.scorer.scores(features) if is_finite else self.scorer.undefined(),
            collapsed=self.collapsed(samples),
        )

    def score(self, samples: Tensor) -> dict[str, float]:
        """Scores of examples that already exist."""
        return self.scorer.scores(extract(self.draws.features, samples, self.device, self.batch_size))

    def collapsed(self, samples: Tensor) -> bool:
        """Whether all samples are nearly the same; training treats it as divergence.

        Spread is the root of the variance over samples, averaged over elements. For points it is compared with the
        data's, which the reference knows because points are their own features.
        """
        # In pieces, since float64 takes eight times the memory of bytes.
        columns = torch.split(samples.flatten(1), COLUMNS, dim=1)
        spread = torch.cat([column.double().var(dim=0) for column in columns]).mean().sqrt()
        data_spread = self.reference.covariance.diagonal().mean().sqrt()
        threshold = COLLAPSE_BYTES if self.is_image else COLLAPSE_SHARE * data_spread
        return not bool(spread > threshold)  # so that NaN counts as collapsed


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Samples of a consistency function from common latents, and their features; what a worker process needs.

    Attributes: those of `Evaluator`.
    """

    extractor: Extractor
    sampler: Sampler
    seed: int
    source: NoiseSource
    is_image: bool
    device: torch.device | str
    batch_size: int = BATCH_SIZE

    @cached_property
    def features(self) -> Callable[[Tensor], Tensor]:
        """The loaded extractor."""
        return self.extractor.load(self.device)

    def shard(self, function: ConsistencyFunction, start: int, stop: int, sampler: Sampler | None = None) -> Shard:
        """Samples number `start` to `stop` - 1 and their features; drawn by another sampler if one is given."""
        return self._draw(function, start, stop, sampler, self.features)

    def samples(self, function: ConsistencyFunction, start: int, stop: int) -> Tensor:
        """Samples number `start` to `stop` - 1 on the CPU."""
        return self._draw(function, start, stop, None, no_features).samples

    def _draw(
        self,
        function: ConsistencyFunction,
        start: int,
        stop: int,
        sampler: Sampler | None,
        features: Callable[[Tensor], Tensor],
    ) -> Shard:
        return draw_shard(
            function,
            self.sampler if sampler is None else sampler,
            start,
            stop,
            seed=self.seed,
            source=self.source,
            is_image=self.is_image,
            features=features,
            device=self.device,
            batch_size=self.batch_size,
        )


def whole_batches(num: int, batch_size: int, num_parts: int) -> list[tuple[int, int]]:
    """First and one past the last of `num` examples in each of at most `num_parts` parts of whole batches."""
    num_batches = -(-num // batch_size)
    edges = [part * num_batches // num_parts * batch_size for part in range(num_parts)] + [num]
    return [(start, stop) for start, stop in pairwise(edges) if start < stop]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """All rows; a single part is not copied, as it may have half a gigabyte."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def no_features(examples: Tensor) -> Tensor:
    """Features of width 0, where only samples are wanted."""
    return examples.new_empty(len(examples), 0, dtype=torch.float32)


def generate(
    function: ConsistencyFunction,
    sampler: Sampler,
    start: int,
    stop: int,
    *,
    seed: int,
    source: NoiseSource,
    is_image: bool,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Samples number `start` to `stop` - 1 of the common latents of `seed`: uint8 images, or float32 points."""
    shard = draw_shard(
        function,
        sampler,
        start,
        stop,
        seed=seed,
        source=source,
        is_image=is_image,
        features=no_features,
        device=device,
        batch_size=batch_size,
    )
    return shard.samples


def draw_shard(
    function: ConsistencyFunction,
    sampler: Sampler,
    start: int,
    stop: int,
    *,
    seed: int,
    source: NoiseSource,
    is_image: bool,
    features: Callable[[Tensor], Tensor],
    device: torch.device | str,
    batch_size: int,
) -> Shard:
    """Samples number `start` to `stop` - 1 of the common latents of `seed`, and their features.

    In pieces of `batch_size`, each through the network and then through `features`: memory does not grow with the
    number of samples, but for what is returned. The host draws the latents of the next piece while the device works on
    this one, and waits for it once a piece.
    """
    bounds = [(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)]
    samples = kept = torch.empty(0)
    is_finite = torch.ones((), dtype=torch.bool, device=device)
    ahead = evaluation_latents(seed, *bounds[0], source)
    for number, piece in enumerate(bounds):

        def draw(stage: int, piece: tuple[int, int] = piece, first: Tensor = ahead) -> Tensor:
            latents = first if stage == 0 else evaluation_latents(seed, *piece, source, stage)
            return latents.to(device, non_blocking=True)

        # Not inference mode: a tensor that a network caches there could not take part in training later.
        with torch.no_grad():
            output = sampler(function, draw)
            # Bytes cannot say NaN, so images that are not finite are caught before they become bytes.
            is_finite &= output.isfinite().all()
            examples = to_bytes(output) if is_image else output.float()
            found = features(examples)
        if number + 1 < len(bounds):
            ahead = evaluation_latents(seed, *bounds[number + 1], source)
        if number == 0:
            samples, kept = (part.new_empty(stop - start, *part.shape[1:], device="cpu") for part in (examples, found))
        for whole, part in ((samples, examples), (kept, found)):
            whole[piece[0] - start : piece[1] - start] = part
    return Shard(samples=samples, features=kept, is_finite=bool(is_finite))
