"""What every data set provides.

To add one: a file beside this one with a frozen dataclass and `@datasets.register("name")`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gcsearch.errors import DataError
from gcsearch.registry import Component, Registry
from gcsearch.science.images import to_unit_range
from gcsearch.science.oracles import IdealFlow
from gcsearch.science.process import Process


@dataclass(frozen=True)
class Examples:
    """The training examples of a data set, in memory or mapped from a file.

    Attributes:
        values: uint8 images (N, C, H, W), or float32 points (N, *event).
        recorded_sha256: Hash of the bytes if it is on record, so that nobody has to read them all.
    """

    values: Tensor
    recorded_sha256: str | None = None

    def __post_init__(self) -> None:
        if len(self.values) == 0:
            raise DataError("data set: there must be at least one example, got none.")

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def sha256(self) -> str:
        """Hash of the stored bytes: the data part of a score's identity."""
        return self.recorded_sha256 or hashlib.sha256(self.values.contiguous().numpy().tobytes()).hexdigest()

    @property
    def is_image(self) -> bool:
        """Whether the examples are images of bytes."""
        return self.values.dtype == torch.uint8

    def select(self, indices: Tensor) -> Tensor:
        """Copies of the examples at `indices`, as they are stored.

        Copies whole examples; indexing with [] goes number by number and takes six times as long.
        """
        return self.values.index_select(0, indices)

    def scaled(self) -> Tensor:
        """All examples as the networks see them: float32, images in [-1, 1]."""
        return to_unit_range(self.values) if self.is_image else self.values


class Dataset(Component, ABC):
    """A data set, named in the `data` section of an experiment.

    Attributes:
        default_extractor: Feature extractor that `evaluation.extractor: auto` stands for.
    """

    default_extractor: str

    @property
    @abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example, (C, H, W) for images."""

    @abstractmethod
    def load(self) -> Examples:
        """All training examples."""

    def draw_source(self, num: int, generator: torch.Generator) -> Tensor:
        """`num` samples of the source distribution that noise is drawn from: standard normal unless overridden."""
        return torch.randn(num, *self.event_shape, generator=generator, device=generator.device)

    def ideal_flow(self, process: Process) -> IdealFlow | None:
        """The exact probability flow of the data under `process` and independent coupling, where it is known."""
        del process
        return None


datasets: Registry[Dataset] = Registry("data")
