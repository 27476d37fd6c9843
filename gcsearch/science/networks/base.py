"""What every network provides, and the parts they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcsearch.registry import Component, Registry
from gcsearch.science.shapes import PerExample


class Network(Component, ABC):
    """Settings of a network. The module is called as ``module(x, conditioning, dropout)``.

    `conditioning` is c_noise, one number per example. Neighbouring levels differ by less than bf16 resolves, so what is
    computed from it alone stays in fp32 under autocast. `dropout` is a seed on the device of `x`, or None to switch
    dropout off; the layers are `gcsearch.science.dropout.Dropout`, each with a number of its own. The output has the
    shape of `x`. There is no train or eval mode: what a forward pass does depends on its arguments alone.

    An objective may tell its network more than one number per example: see `Objective.num_conditions`. The module of a
    network that was built with K > 1 of them takes `conditioning` of shape (B, K), the first being c_noise, and its
    parameter `output_weight` is the weight of the last layer. Every op has a forward-mode derivative.

    Attributes:
        max_conditions: Numbers per example that the network can be told.
    """

    max_conditions: ClassVar[int] = 1

    @abstractmethod
    def check(self, event_shape: tuple[int, ...]) -> None:
        """Raise ValueError if the network cannot take examples of this shape."""

    @abstractmethod
    def build(self, event_shape: tuple[int, ...], num_conditions: int = 1) -> nn.Module:
        """Module with fresh weights from torch's global generator; see `initialize`.

        Args:
            event_shape: Shape of one example.
            num_conditions: Numbers per example that the module is told. Those beyond the first add weights and change
                no others; at the start the output does not depend on them. Left out by the caller where it is 1.
        """


networks: Registry[Network] = Registry("network")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generator of the CPU starts at `seed` inside; afterwards it is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reset every GPU's generator
        yield


def initialize(network: Network, event_shape: tuple[int, ...], seed: int, num_conditions: int = 1) -> nn.Module:
    """Module whose weights depend on `seed` only; the global generators are left as they were."""
    with seeded(seed):
        return network.build(event_shape) if num_conditions == 1 else network.build(event_shape, num_conditions)


class PositionalEmbedding(nn.Module):
    """Sines and cosines of c_noise at geometrically spaced frequencies from 1 down to 1 / max_positions.

    Source: EDM's DDPM++ embedding (endpoint included).
    """

    frequencies: Tensor

    def __init__(self, channels: int, max_positions: float = 10_000.0) -> None:
        super().__init__()
        exponents = torch.linspace(0, 1, channels // 2)
        self.register_buffer("frequencies", torch.exp(-math.log(max_positions) * exponents), persistent=False)

    def forward(self, conditioning: PerExample) -> Tensor:
        """Embedding of shape (B, channels)."""
        angles = conditioning[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class FurtherConditions(nn.Module):
    """What the numbers after the first add to the embedding of the level; nothing at the start.

    Args:
        num: Numbers per example, at least 1.
        channels: Sines and cosines of each, even.
        size: Size of the embedding that they are added to.
    """

    def __init__(self, num: int, channels: int, size: int) -> None:
        super().__init__()
        self.embedding = PositionalEmbedding(channels)
        self.hidden = nn.ModuleList(nn.Linear(channels, size) for _ in range(num))
        self.last = nn.ModuleList(nn.Linear(size, size) for _ in range(num))
        for layer in self.last.parameters():
            nn.init.zeros_(layer)

    def forward(self, conditioning: Tensor) -> Tensor:
        """Sum of their embeddings, (B, size), from all conditions (B, 1 + num)."""
        total: Tensor = torch.zeros((), device=conditioning.device)
        for value, hidden, last in zip(conditioning.unbind(1)[1:], self.hidden, self.last, strict=True):
            total = total + last(functional.silu(hidden(self.embedding(value))))
        return total


def embed(conditioning: Tensor, first: nn.Module, further: nn.Module | None) -> Tensor:
    """Embedding of what a network is told, (B, size): of `conditioning`, (B,), or (B, K) where there is `further`."""
    embedding: Tensor = first(conditioning if further is None else conditioning[:, 0])
    return embedding if further is None else embedding + further(conditioning)


Modulation = Literal["shift", "scale_shift", "pixel_norm"]
"""How the level enters a block: see `modulate`."""


def modulation_size(modulation: Modulation, channels: int) -> int:
    """Numbers that a block of `channels` needs per example."""
    return channels if modulation == "shift" else 2 * channels


def modulate(hidden: Tensor, norm: nn.Module, level: Tensor, modulation: Modulation) -> Tensor:
    """Normalised features, told the level.

    ``shift``: norm(h + b), as in DDPM++. ``scale_shift``: (1 + s) norm(h) + b, EDM's adaptive group norm.
    ``pixel_norm``: p(s) norm(h) + p(b), p(v) = v / sqrt(mean of v^2 over the channels), sCM's double normalisation:
    the scale cannot grow, so neither can the derivative by time.

    Args:
        hidden: Features (B, C, H, W).
        norm: Normalisation of the block.
        level: What the block makes of the embedding, (B, `modulation_size`).
        modulation: Which of the three.

    Source: sCM (arXiv:2410.11081) section 4.1 for the last.
    """
    level = level[:, :, None, None]
    result: Tensor
    if modulation == "shift":
        result = norm(hidden + level)
        return result
    scale, shift = level.chunk(2, dim=1)
    scale, shift = (1 + scale, shift) if modulation == "scale_shift" else (pixel_norm(scale), pixel_norm(shift))
    result = scale * norm(hidden) + shift
    return result


def pixel_norm(values: Tensor) -> Tensor:
    """Values (B, C, ...) divided by their root mean square over the channels."""
    return values * (values.square().mean(1, keepdim=True) + 1e-8).rsqrt()
