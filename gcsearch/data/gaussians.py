"""Two-dimensional Gaussian mixtures of the GC papers, small enough for exact answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gcsearch.data.base import Dataset, Examples, datasets
from gcsearch.science.oracles import GaussianMixture, MixtureFlow
from gcsearch.science.process import Process
from gcsearch.science.randomness import generator

Modes = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Gaussians(Dataset, ABC):
    """Equal mixture of normal modes in the plane, with a source of its own.

    Attributes:
        std: Standard deviation of each mode.
        num_points: Size of the fixed training set.
        source_modes: Means of the source's modes; empty for the standard normal source.
    """

    std: float = 0.01
    num_points: int = 10_000
    default_extractor = "coordinates"
    source_modes: ClassVar[Modes] = ()

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be > 0, got {self.std}")
        if self.num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {self.num_points}")

    @property
    @abstractmethod
    def modes(self) -> Modes:
        """Means of the data's modes."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def source_std(self) -> tuple[float, float]:
        """Standard deviation of each mode of the source, along each coordinate."""
        return (self.std, self.std)

    def load(self) -> Examples:
        return Examples(draw_mixture(self.modes, (self.std, self.std), self.num_points, generator(0, "data")))

    def draw_source(self, num: int, generator: torch.Generator) -> Tensor:
        if not self.source_modes:
            return super().draw_source(num, generator)
        return draw_mixture(self.source_modes, self.source_std, num, generator)

    def ideal_flow(self, process: Process) -> MixtureFlow:
        """The flow of the distribution that the training set was drawn from."""
        data = GaussianMixture(means=torch.tensor(self.modes), std=self.std)
        if not self.source_modes:
            return MixtureFlow(process=process, data=data)
        source = GaussianMixture(means=torch.tensor(self.source_modes), std=torch.tensor(self.source_std))
        return MixtureFlow(process=process, data=data, source=source)


def draw_mixture(modes: Modes, std: tuple[float, float], num: int, stream: torch.Generator) -> Tensor:
    """`num` points of an equal mixture of N(mode, diag(std^2))."""
    choice = torch.randint(len(modes), (num,), generator=stream, device=stream.device)
    noise = torch.randn(num, 2, generator=stream, device=stream.device)
    return torch.tensor(modes, device=stream.device)[choice] + torch.tensor(std, device=stream.device) * noise


@datasets.register("gaussians_1m2m")
@dataclass(frozen=True, kw_only=True)
class OneToTwoModes(Gaussians):
    """Standard normal noise to two modes at (0, -0.5) and (0, 0.5).

    Source: notebooks of the GC code (variance-exploding version).
    """

    @property
    def modes(self) -> Modes:
        return ((0.0, -0.5), (0.0, 0.5))


@datasets.register("gaussians_1m2m_v1")
@dataclass(frozen=True, kw_only=True)
class OneToTwoModesV1(Gaussians):
    """A source of one mode at (-1, 0) to data of two modes at (1, -1) and (1, 1), for straight paths.

    The source is N((-1, 0), diag(std^2, 0.5^2)): as narrow as the data along the path, and wide across it.

    Source: GC v1 section 4 and its notebooks.
    """

    source_modes = ((-1.0, 0.0),)

    @property
    def modes(self) -> Modes:
        return ((1.0, -1.0), (1.0, 1.0))

    @property
    def source_std(self) -> tuple[float, float]:
        return (self.std, 0.5)


@datasets.register("gaussians_2m2m")
@dataclass(frozen=True, kw_only=True)
class TwoToTwoModes(Gaussians):
    """A source of two modes at (-1, -1) and (-1, 1) to data of two modes at (1, -1) and (1, 1).

    Source: GC v1 section 4 and its notebooks.
    """

    source_modes = ((-1.0, -1.0), (-1.0, 1.0))

    @property
    def modes(self) -> Modes:
        return ((1.0, -1.0), (1.0, 1.0))
