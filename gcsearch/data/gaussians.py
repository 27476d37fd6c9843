"""Two-dimensional Gaussian mixtures of the GC papers, small enough for exact answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcsearch.data.base import Dataset, Examples, datasets
from gcsearch.science.randomness import generator


def check_mixture(std: float, num_points: int) -> None:
    """Reject settings that mean nothing."""
    if not std > 0:
        raise ValueError(f"std must be > 0, got {std}")
    if num_points < 1:
        raise ValueError(f"num_points must be at least 1, got {num_points}")


def draw_mixture(modes: Tensor, std: float, num: int, stream: torch.Generator) -> Tensor:
    """`num` points of an equal mixture of N(mode, std^2 I)."""
    choice = torch.randint(len(modes), (num,), generator=stream, device=stream.device)
    noise = torch.randn(num, modes.shape[1], generator=stream, device=stream.device)
    return modes.to(stream.device)[choice] + std * noise


@datasets.register("gaussians_1m2m")
@dataclass(frozen=True, kw_only=True)
class OneToTwoModes(Dataset):
    """Standard normal noise to two modes at (0, -0.5) and (0, 0.5).

    Attributes:
        std: Standard deviation of each mode.
        num_points: Size of the fixed training set.

    Source: notebooks of the GC code (variance-exploding version).
    """

    std: float = 0.01
    num_points: int = 10_000
    default_extractor = "coordinates"

    def __post_init__(self) -> None:
        check_mixture(self.std, self.num_points)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (2,)

    def load(self) -> Examples:
        modes = torch.tensor([[0.0, -0.5], [0.0, 0.5]])
        return Examples(draw_mixture(modes, self.std, self.num_points, generator(0, "data")))


@datasets.register("gaussians_2m2m")
@dataclass(frozen=True, kw_only=True)
class TwoToTwoModes(Dataset):
    """A source of two modes at (-1, -1) and (-1, 1) to data of two modes at (1, -1) and (1, 1).

    Attributes:
        std: Standard deviation of each mode, in data and source.
        num_points: Size of the fixed training set.

    Source: GC v1 section 4 and its notebooks.
    """

    std: float = 0.01
    num_points: int = 10_000
    default_extractor = "coordinates"

    def __post_init__(self) -> None:
        check_mixture(self.std, self.num_points)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (2,)

    def load(self) -> Examples:
        modes = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
        return Examples(draw_mixture(modes, self.std, self.num_points, generator(0, "data")))

    def draw_source(self, num: int, generator: torch.Generator) -> Tensor:
        return draw_mixture(torch.tensor([[-1.0, -1.0], [-1.0, 1.0]]), self.std, num, generator)
