"""Multilayer perceptron for low-dimensional data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcsearch.science.dropout import Dropout
from gcsearch.science.networks.base import FurtherConditions, Network, PositionalEmbedding, networks
from gcsearch.science.shapes import Batch, Conditions, DropoutSeed


@networks.register("mlp")
@dataclass(frozen=True, kw_only=True)
class MLP(Network):
    """Four linear layers with GELU; the level's embedding joins after the first.

    Attributes:
        width: Units per layer, even.
        dropout: Probability of zeroing a hidden unit, in [0, 1).

    Source: GC's notebooks (width 256: 198,402 parameters for two-dimensional data); they have no dropout.
    """

    max_conditions: ClassVar[int] = 2

    width: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width must be an even number >= 2, got {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Every shape will do; examples are flattened."""

    def build(self, event_shape: tuple[int, ...], num_conditions: int = 1) -> nn.Module:
        return MLPModule(event_shape, self, num_conditions)


class MLPModule(nn.Module):
    """The module of `MLP`."""

    def __init__(self, event_shape: tuple[int, ...], settings: MLP, num_conditions: int = 1) -> None:
        super().__init__()
        size, width = torch.Size(event_shape).numel(), settings.width
        self.embedding = PositionalEmbedding(width)
        self.first = nn.Linear(size, width)
        self.second = nn.Linear(2 * width, width)
        self.third = nn.Linear(width, width)
        self.last = nn.Linear(width, size)
        self.dropout_second = Dropout(settings.dropout, layer=0)
        self.dropout_third = Dropout(settings.dropout, layer=1)
        # Made last, so that all other weights are the same with and without it.
        self.further = FurtherConditions(num_conditions - 1, width, width) if num_conditions > 1 else None

    @property
    def output_weight(self) -> Tensor:
        """Weight of the last layer."""
        return self.last.weight

    def forward(self, x: Batch, conditioning: Conditions, dropout: DropoutSeed | None = None) -> Tensor:
        """Output of the shape of `x`."""
        hidden = functional.gelu(self.first(x.flatten(1)))
        # Neighbouring levels differ by less than bf16 resolves.
        with torch.autocast(x.device.type, enabled=False):
            level = conditioning if self.further is None else conditioning[:, 0]
            hidden = self.second(torch.cat([hidden, self.embedding(level)], dim=1))
            if self.further is not None:
                hidden = hidden + self.further(conditioning)
        hidden = self.dropout_second(functional.gelu(hidden), dropout)
        hidden = self.dropout_third(functional.gelu(self.third(hidden)), dropout)
        output: Tensor = self.last(hidden)
        return output.reshape(x.shape)
