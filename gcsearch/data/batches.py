"""Which examples each step trains on: a pure function of (seed, step), without workers or queues."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from gcsearch.data.base import Examples
from gcsearch.science.randomness import generator

RESIDENT_SHARE: Final = 0.25
"""Largest share of the accelerator's free memory that a data set may take; larger ones stay on the host."""


class Batches:
    """Random batches without replacement within an epoch.

    Epoch e visits all examples in the order of a permutation drawn from (seed, e); a batch may span two epochs, so no
    example is dropped and every batch is full. Where the examples lie (host memory, a mapped file, the device) does
    not change a bit.

    Args:
        examples: The data set.
        batch_size: Examples per step.
        seed: Seed of the experiment.
        device: Where batches are wanted. The examples are moved there once if they fit; if not, each batch is.
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        values = examples.values
        self.examples = Examples(values.to(self.device), examples.sha256) if _fits(values, self.device) else examples
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
        """Batch of step `step` as the networks see it, on the device."""
        chosen = self.examples.select(self.indices(step))
        if self.device.type == "cuda" and chosen.device.type == "cpu":
            chosen = chosen.pin_memory()  # so that the copy overlaps with the step before
        # Bytes travel: a quarter of what floats would take.
        return Examples(chosen.to(self.device, non_blocking=True)).scaled()

    def _permutation(self, epoch: int) -> Tensor:
        order = torch.randperm(len(self.examples), generator=generator(self.seed, "data", epoch))
        return order.to(self.examples.values.device)


def _fits(values: Tensor, device: torch.device) -> bool:
    """Whether the examples may move to the device: yes, unless they would crowd a GPU."""
    if device.type != "cuda" or values.device.type == "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return values.nbytes <= RESIDENT_SHARE * free
