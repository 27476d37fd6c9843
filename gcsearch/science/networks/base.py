"""What every network provides, and the parts they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from gcsearch.registry import Component, Registry
from gcsearch.science.shapes import PerExample


class Network(Component, ABC):
    """Settings of a network. The module is called as ``module(x, conditioning, dropout)``.

    `conditioning` is c_noise, one number per example. Neighbouring levels differ by less than bf16 resolves, so what is
    computed from it alone stays in fp32 under autocast. `dropout` is a seed on the device of `x`, or None to switch
    dropout off; the layers are `gcsearch.science.dropout.Dropout`, each with a number of its own. The output has the
    shape of `x`. There is no train or eval mode: what a forward pass does depends on its arguments alone.
    """

    @abstractmethod
    def check(self, event_shape: tuple[int, ...]) -> None:
        """Raise ValueError if the network cannot take examples of this shape."""

    @abstractmethod
    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        """Module with fresh weights from torch's global generator; see `initialize`."""


networks: Registry[Network] = Registry("network")


def initialize(network: Network, event_shape: tuple[int, ...], seed: int) -> nn.Module:
    """Module whose weights depend on `seed` only; the global generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reset every GPU's generator
        return network.build(event_shape)


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
