"""Multilayer perceptron for low-dimensional data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcsearch.science.networks.base import Network, PositionalEmbedding, drop, networks
from gcsearch.science.shapes import Batch, PerExample


@networks.register("mlp")
@dataclass(frozen=True, kw_only=True)
class MLP(Network):
    """Four linear layers with GELU; the level's embedding joins after the first.

    Attributes:
        width: Units per layer, even.
        dropout: Probability of zeroing a hidden unit, in [0, 1).

    Source: GC's notebooks (width 256: 198,402 parameters for two-dimensional data); they have no dropout.
    """

    width: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width must be an even number >= 2, got {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Every shape will do; examples are flattened."""

    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        return MLPModule(event_shape, self)


class MLPModule(nn.Module):
    """The module of `MLP`."""

    def __init__(self, event_shape: tuple[int, ...], settings: MLP) -> None:
        super().__init__()
        size, width = torch.Size(event_shape).numel(), settings.width
        self.probability = settings.dropout
        self.embedding = PositionalEmbedding(width)
        self.first = nn.Linear(size, width)
        self.second = nn.Linear(2 * width, width)
        self.third = nn.Linear(width, width)
        self.last = nn.Linear(width, size)

    def forward(self, x: Batch, conditioning: PerExample, dropout: torch.Generator | None = None) -> Tensor:
        """Output of the shape of `x`."""
        hidden = functional.gelu(self.first(x.flatten(1)))
        hidden = torch.cat([hidden, self.embedding(conditioning)], dim=1)
        hidden = drop(functional.gelu(self.second(hidden)), self.probability, dropout)
        hidden = drop(functional.gelu(self.third(hidden)), self.probability, dropout)
        output: Tensor = self.last(hidden)
        return output.reshape(x.shape)
