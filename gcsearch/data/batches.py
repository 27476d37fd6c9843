"""Which examples each step trains on: a pure function of (seed, step), without workers or queues."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gcsearch.data.base import Examples
from gcsearch.science.randomness import generator


class Batches:
    """Random batches without replacement within an epoch, from examples that already lie on the device.

    Epoch e visits all examples in the order of a permutation drawn from (seed, e); a batch may span two epochs, so no
    example is dropped and every batch is full.

    Args:
        examples: The data set.
        batch_size: Examples per step.
        seed: Seed of the experiment.
        device: Where batches are wanted; the examples are moved there once.
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.examples = Examples(examples.values.to(device))
        self.batch_size = batch_size
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._permutation)

    def indices(self, step: int) -> Tensor:
        """Indices of the examples of step `step` (0-based), shape (batch_size,)."""
        total = len(self.examples)
        position, wanted, parts = step * self.batch_size, self.batch_size, []
        while wanted > 0:
            epoch, offset = divmod(position, total)
            part = self._order(epoch)[offset : offset + wanted]
            parts.append(part)
            position, wanted = position + len(part), wanted - len(part)
        return torch.cat(parts)

    def __getitem__(self, step: int) -> Tensor:
        """Batch of step `step` as the networks see it."""
        return self.examples.scaled(self.indices(step))

    def _permutation(self, epoch: int) -> Tensor:
        order = torch.randperm(len(self.examples), generator=generator(self.seed, "data", epoch))
        return order.to(self.examples.values.device)
