"""Random numbers as pure functions of (seed, stream, position).

Nothing here touches the global generators, and nothing has to be stored to resume: the draws of step k are the
same whether or not the run was interrupted before k. Every recipe consumes the same draws in the same order, so runs
with the same seed share data order, noise, levels and mixing masks, and their differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gcsearch.science.shapes import Batch, DropoutSeed, Indices, PerExample

STREAMS: Final = {
    "initialization": 0,
    "data": 1,
    "training": 2,
    "dropout": 3,
    "evaluation": 4,
    "metric": 5,
    "diagnostics": 6,
}
"""Independent streams of one seed. The numbers are part of what a checkpoint means: never renumber."""

LATENT_BLOCK: Final = 64
"""Evaluation latents are drawn in blocks of this many indices, so that they do not depend on the batch size."""

NoiseSource = Callable[[int, torch.Generator], Tensor]
"""Draws `num` source samples of shape (num, *event) from a CPU or device generator."""


def derive_seed(seed: int, stream: str, *position: int) -> int:
    """64-bit seed for one stream at one position, e.g. ``derive_seed(0, "training", step)``.

    Mixed by numpy's SeedSequence, so that neighbouring seeds and positions give unrelated streams. Stream and position
    are its spawn key: as plain entropy, trailing zeros would not count and position () would equal position (0).
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(STREAMS[stream], *position))
    return int(sequence.generate_state(1, np.uint64)[0])


def generator(seed: int, stream: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Fresh generator for one stream at one position, on `device`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, stream, *position))


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of a batch that one of several processes treats: every `count`-th example of the step's random order.

    A coupling takes the first examples of that order, so what it takes is dealt out evenly: the shares differ by one
    example at most.

    Attributes:
        index: Number of the process, 0-based.
        count: Processes.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"index must be in [0, {self.count}), got {self.index}")

    def of(self, num: int) -> int:
        """How many of the first `num` examples of the order are in this share."""
        return len(range(self.index, num, self.count))


WHOLE: Final = Share()
"""All of a batch: one process treats it."""


@dataclass(frozen=True, kw_only=True)
class StepDraws:
    """All random numbers of one training step, the same for every recipe; or those of one share of it.

    Attributes:
        noise: Source samples z.
        level_uniforms: Uniform numbers in [0, 1); an inverse cumulative distribution turns them into levels, so
            recipes with different grids draw corresponding levels.
        selection: Random order of the examples; a coupling that treats a share of the batch takes the first ones.
        dropout_seed: Seed of the dropout mask that student and teacher share; in a share of a batch, the seed with the
            rows of the whole batch (see `gcsearch.science.dropout.seed_of_rows`).
        share: Which part of the batch this is.
    """

    noise: Batch
    level_uniforms: PerExample
    selection: Indices
    dropout_seed: int | DropoutSeed
    share: Share = WHOLE

    def to(self, device: torch.device | str) -> StepDraws:
        """The same numbers on another device."""
        return StepDraws(
            noise=self.noise.to(device),
            level_uniforms=self.level_uniforms.to(device),
            selection=self.selection.to(device),
            dropout_seed=self.dropout_seed,
        )


def draw_step(
    seed: int, step: int, batch_size: int, source: NoiseSource, device: torch.device | str = "cpu"
) -> StepDraws:
    """Random numbers of training step `step` (0-based) for a batch of `batch_size` examples."""
    stream = generator(seed, "training", step, device=device)
    return _draw(stream, batch_size, source, dropout_seed=derive_seed(seed, "dropout", step))


def draw_diagnostics(
    seed: int, number: int, batch_size: int, num_examples: int, source: NoiseSource
) -> tuple[Indices, StepDraws]:
    """Which examples, and all other random numbers, of diagnostic batch `number`, on the CPU.

    They depend on the arguments only: not on trial, recipe, device or how far training is. Batches are independent of
    each other, and each is drawn like a batch of training: without replacement, as long as there are enough examples.

    Args:
        seed: Evaluation seed of the study.
        number: Number of the batch, 0-based.
        batch_size: Examples per batch.
        num_examples: Size of the data set.
        source: Draws source samples.

    Returns:
        Indices of the examples, shape (batch_size,), and the draws of a step.
    """
    order = generator(seed, "diagnostics", number, 0)
    rounds = -(-batch_size // num_examples)
    indices = torch.cat([torch.randperm(num_examples, generator=order) for _ in range(rounds)])[:batch_size]
    stream = generator(seed, "diagnostics", number, 1)
    return indices, _draw(stream, batch_size, source, dropout_seed=derive_seed(seed, "diagnostics", number, 2))


def _draw(stream: torch.Generator, batch_size: int, source: NoiseSource, dropout_seed: int) -> StepDraws:
    """Random numbers of one step from one stream, on its device."""
    noise = source(batch_size, stream)
    uniforms = torch.rand(batch_size, generator=stream, device=stream.device)
    selection = torch.randperm(batch_size, generator=stream, device=stream.device)
    return StepDraws(noise=noise, level_uniforms=uniforms, selection=selection, dropout_seed=dropout_seed)


def evaluation_latents(seed: int, start: int, stop: int, source: NoiseSource, stage: int = 0) -> Tensor:
    """Source samples number `start` to `stop` - 1 of the common latents, on the CPU.

    They depend on (seed, index, stage) only: not on trial, batch size, device or number of workers.

    Args:
        seed: Evaluation seed of the study.
        start: First sample index.
        stop: One past the last sample index.
        source: Draws source samples; `source(n)` from a fresh generator must start with the samples of smaller n
            or, as here, always be asked for whole blocks.
        stage: 0 for the initial latents, 1, 2, ... for the noise a multistep sampler adds.

    Returns:
        Tensor of shape (stop - start, *event).
    """
    if start == stop:
        return source(0, generator(seed, "evaluation", stage, 0))
    first, last = start // LATENT_BLOCK, (stop - 1) // LATENT_BLOCK
    blocks = [source(LATENT_BLOCK, generator(seed, "evaluation", stage, block)) for block in range(first, last + 1)]
    offset = first * LATENT_BLOCK
    return torch.cat(blocks)[start - offset : stop - offset]
