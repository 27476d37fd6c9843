"""Layers of `song_unet`. They register nothing.

Letters: B examples, C channels, H x W pixels, E numbers in the embedding of the level, T = H W tokens of attention.

Source: EDM (arXiv:2206.00364) for blocks and initialization. Written from the project's science notes, G.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcsearch.science.dropout import Dropout
from gcsearch.science.networks.base import Modulation, modulate, modulation_size
from gcsearch.science.shapes import DropoutSeed, Images, PerExample

SKIP_SCALE = math.sqrt(1 / 2)
"""Factor of each sum of two branches: keeps unit variance if both have it."""

NEAR_ZERO = 1e-5
"""Gain of the last layer of each branch and of the network: a fresh network is c_skip x."""


class Block(nn.Module):
    """Residual block: norm, SiLU, resampling, convolution, plus the level; norm, SiLU, dropout, convolution.

    The level is added, or used as scale and shift of the second norm; the sum with the input is scaled by sqrt(1/2);
    attention comes last.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: Dropout,
        attention: bool,
        resampling: Resampling | None,
        modulation: Modulation = "shift",
    ) -> None:
        super().__init__()
        self.modulation = modulation
        self.norm_in = group_norm(inputs)
        self.resample = resampling or nn.Identity()
        self.conv_in = convolution(inputs, outputs, 3)
        self.affine = dense(embedding, modulation_size(modulation, outputs))
        self.norm_out = group_norm(outputs)
        self.dropout = dropout
        self.conv_out = convolution(outputs, outputs, 3, gain=NEAR_ZERO)
        self.skip = convolution(inputs, outputs, 1) if resampling or inputs != outputs else nn.Identity()
        self.attention = Attention(outputs) if attention else nn.Identity()

    def forward(self, x: Images, embedding: Tensor, dropout: DropoutSeed | None) -> Tensor:
        """Features (B, outputs, H, W) of the block's resolution."""
        hidden = self.conv_in(self.resample(functional.silu(self.norm_in(x))))
        with torch.autocast(x.device.type, enabled=False):
            level = self.affine(embedding)
        hidden = modulate(hidden, self.norm_out, level, self.modulation)
        hidden = self.dropout(functional.silu(hidden), dropout)
        hidden = (self.skip(self.resample(x)) + self.conv_out(hidden)) * SKIP_SCALE
        result: Tensor = self.attention(hidden)
        return result


class Attention(nn.Module):
    """Self-attention between pixels, one head, with residual. The weights are computed in at least fp32.

    Plain products and a softmax: unlike a fused kernel they have forward-mode and second derivatives.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = convolution(channels, 3 * channels, 1, gain=math.sqrt(0.2))
        self.out = convolution(channels, channels, 1, gain=NEAR_ZERO)

    def forward(self, x: Images) -> Tensor:
        """Features of the shape of `x`."""
        tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (B, T, 3 C)
        query, key, value = tokens.chunk(3, dim=2)  # (B, T, C) each
        precise = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            scores = query.to(precise) @ key.to(precise).transpose(1, 2) / math.sqrt(x.shape[1])  # (B, T, T)
            mixed = scores.softmax(dim=2).to(value.dtype) @ value  # (B, T, C)
        result: Tensor = (x + self.out(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))) * SKIP_SCALE
        return result


class Resampling(nn.Module):
    """Halves or doubles height and width with a separable low-pass filter; constant images stay as they are inside.

    Args:
        direction: ``down`` or ``up``.
        weights: The filter along each side, an even number of weights; their sum does not matter.
        is_padded: Whether ``down`` pads its input with zeros. If not, the output lacks the pixels whose filter would
            reach over the border.
    """

    kernel: Tensor

    def __init__(self, direction: Literal["down", "up"], weights: Sequence[int], is_padded: bool = True) -> None:
        super().__init__()
        self.direction = direction
        self.is_box = tuple(weights) == (1, 1)
        self.padding = border(weights) if is_padded else 0
        line = torch.tensor(list(weights), dtype=torch.float32)
        line = line / line.sum() * (2 if direction == "up" else 1)  # of 2 x 2 pixels, upsampling fills one
        self.register_buffer("kernel", line.outer(line)[None, None], persistent=False)

    def forward(self, x: Images) -> Tensor:
        """Images of half or twice the height and width."""
        if self.is_box:
            if self.direction == "down":
                return functional.avg_pool2d(x, 2)
            return functional.interpolate(x, scale_factor=2.0, mode="nearest")
        channels = x.shape[1]
        resample = functional.conv2d if self.direction == "down" else functional.conv_transpose2d
        kernel = self.kernel.expand(channels, -1, -1, -1)
        return resample(x, kernel, stride=2, padding=self.padding, groups=channels)


class FourierEmbedding(nn.Module):
    """Sines and cosines of c_noise at frequencies drawn once from N(0, scale^2), which are part of the weights.

    Source: NCSN++ (arXiv:2011.13456), scale 16.
    """

    frequencies: Tensor

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels // 2) * scale)

    def forward(self, conditioning: PerExample) -> Tensor:
        """Embedding of shape (B, channels)."""
        angles = conditioning[:, None] * (2 * math.pi * self.frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def image_downsampling(inputs: int, outputs: int, weights: Sequence[int]) -> nn.Sequential:
    """Convolution and downsampling of the image of the ``residual`` encoder; zeros are padded before both."""
    return nn.Sequential(
        convolution(inputs, outputs, 3, padding=1 + border(weights)), Resampling("down", weights, is_padded=False)
    )


def border(weights: Sequence[int]) -> int:
    """Pixels by which a filter of stride 2 reaches over each border of an image of even size."""
    return len(weights) // 2 - 1


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of 32 groups, but at least 4 channels each; of fewer groups where these do not divide `channels`."""
    groups = next(num for num in range(min(32, channels // 4), 0, -1) if channels % num == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def convolution(inputs: int, outputs: int, size: int, gain: float = 1.0, padding: int | None = None) -> nn.Conv2d:
    """Convolution that keeps the resolution, Xavier-uniform times `gain`, without bias at first."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2 if padding is None else padding)
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def dense(inputs: int, outputs: int) -> nn.Linear:
    """Linear layer, Xavier-uniform, without bias at first."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
