"""A small U-Net for images of 8 x 8 to 32 x 32."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcsearch.science.dropout import Dropout
from gcsearch.science.networks.base import (
    FurtherConditions,
    Modulation,
    Network,
    PositionalEmbedding,
    embed,
    modulate,
    modulation_size,
    networks,
)
from gcsearch.science.shapes import Conditions, DropoutSeed, Images


@networks.register("unet")
@dataclass(frozen=True, kw_only=True)
class UNet(Network):
    """Residual blocks on a few resolutions, with skips from encoder to decoder. No attention: made for small images.

    Attributes:
        channels: Channels at full resolution, a multiple of 8.
        channel_mult: Factor of `channels` at each resolution, from full down; the resolution halves between entries.
        num_blocks: Residual blocks per resolution, on each side.
        dropout: Probability of zeroing an activation inside a block, in [0, 1).
        patch_size: Side of the pixel patches that are folded into channels before the first convolution; 2 makes every
            layer four times cheaper.
        modulation: How the level enters a block: added before its second norm (``shift``), as scale and shift after it
            (``scale_shift``), or as scale and shift of unit size (``pixel_norm``), for continuous-time objectives.
    """

    max_conditions: ClassVar[int] = 2

    channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2)
    num_blocks: int = 2
    dropout: float = 0.0
    patch_size: int = 1
    modulation: Modulation = "shift"

    def __post_init__(self) -> None:
        if self.patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, got {self.patch_size}")
        if self.channels < 8 or self.channels % 8:
            raise ValueError(f"channels must be a multiple of 8, got {self.channels}")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult must be a non-empty list of numbers >= 1, got {list(self.channel_mult)}")
        if self.num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {self.num_blocks}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def check(self, event_shape: tuple[int, ...]) -> None:
        if len(event_shape) != 3:
            raise ValueError(
                f"network 'unet' needs images (channels, height, width), the data has shape {event_shape}. "
                "Use network.name=mlp"
            )
        factor = self.patch_size * 2 ** (len(self.channel_mult) - 1)
        if event_shape[1] % factor or event_shape[2] % factor:
            raise ValueError(
                f"height and width must be multiples of patch_size 2^(resolutions - 1) = {factor}, got images of "
                f"{event_shape[1]} x {event_shape[2]}. Shorten channel_mult or lower patch_size"
            )

    def build(self, event_shape: tuple[int, ...], num_conditions: int = 1) -> nn.Module:
        # Channels last: convolutions of this size run about twice as fast on CPUs, and faster on GPUs in bf16.
        return UNetModule(event_shape[0], self, num_conditions).to(memory_format=torch.channels_last)


class Block(nn.Module):
    """Group norm, SiLU, 3 x 3 convolution, level embedding; the same again with dropout; residual."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: Dropout, modulation: Modulation) -> None:
        super().__init__()
        self.modulation = modulation
        self.norm_in = nn.GroupNorm(min(8, inputs // 4), inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(embedding, modulation_size(modulation, outputs))
        self.norm_out = nn.GroupNorm(min(8, outputs // 4), outputs)
        self.dropout = dropout
        self.conv_out = zero_like(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, dropout: DropoutSeed | None) -> Tensor:
        """Features of the same resolution."""
        hidden = self.conv_in(functional.silu(self.norm_in(x)))
        with torch.autocast(x.device.type, enabled=False):
            level = self.affine(embedding)
        hidden = modulate(hidden, self.norm_out, level, self.modulation)
        hidden = self.dropout(functional.silu(hidden), dropout)
        result: Tensor = self.skip(x) + self.conv_out(hidden)
        return result


class UNetModule(nn.Module):
    """The module of `UNet`."""

    def __init__(self, image_channels: int, settings: UNet, num_conditions: int = 1) -> None:
        super().__init__()
        layers = itertools.count()
        widths = [settings.channels * factor for factor in settings.channel_mult]
        size = 4 * settings.channels
        self.embedding = nn.Sequential(
            PositionalEmbedding(settings.channels), nn.Linear(settings.channels, size), nn.SiLU()
        )
        self.patch_size = settings.patch_size
        patch_channels = image_channels * settings.patch_size**2

        def block(inputs: int, outputs: int) -> Block:
            return Block(inputs, outputs, size, Dropout(settings.dropout, next(layers)), settings.modulation)

        self.stem = nn.Conv2d(patch_channels, widths[0], 3, padding=1)

        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, current = [widths[0]], widths[0]
        for depth, width in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(settings.num_blocks):
                blocks.append(block(current, width))
                current = width
                skips.append(current)
            self.encoder.append(blocks)
            if depth < len(widths) - 1:
                self.down.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
                skips.append(current)
        self.middle = block(current, current)
        for depth, width in reversed(list(enumerate(widths))):
            blocks = nn.ModuleList()
            for _ in range(settings.num_blocks + 1):
                blocks.append(block(current + skips.pop(), width))
                current = width
            self.decoder.append(blocks)
            if depth > 0:
                self.up.append(nn.Conv2d(current, current, 3, padding=1))
        self.norm = nn.GroupNorm(min(8, current // 4), current)
        self.head = zero_like(nn.Conv2d(current, patch_channels, 3, padding=1))
        # Made last, so that all other weights are the same with and without it.
        self.further = FurtherConditions(num_conditions - 1, settings.channels, size) if num_conditions > 1 else None

    @property
    def output_weight(self) -> Tensor:
        """Weight of the last layer."""
        return self.head.weight

    def forward(self, x: Images, conditioning: Conditions, dropout: DropoutSeed | None = None) -> Tensor:
        """Output of the shape of `x`."""
        # Neighbouring levels differ by less than bf16 resolves.
        with torch.autocast(x.device.type, enabled=False):
            embedding = embed(conditioning, self.embedding, self.further)
        patches = functional.pixel_unshuffle(x, self.patch_size)
        hidden = self.stem(patches.contiguous(memory_format=torch.channels_last))
        skips = [hidden]
        for depth, blocks in enumerate(self.encoder):
            for block in blocks:  # type: ignore[attr-defined]
                hidden = block(hidden, embedding, dropout)
                skips.append(hidden)
            if depth < len(self.down):
                hidden = self.down[depth](hidden)
                skips.append(hidden)
        hidden = self.middle(hidden, embedding, dropout)
        for depth, blocks in enumerate(self.decoder):
            for block in blocks:  # type: ignore[attr-defined]
                hidden = block(torch.cat([hidden, skips.pop()], dim=1), embedding, dropout)
            if depth < len(self.up):
                hidden = self.up[depth](functional.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        return functional.pixel_shuffle(self.head(functional.silu(self.norm(hidden))), self.patch_size)


def zero_like(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights of about 1e-5, so that a fresh network is c_skip x and a fresh block the identity."""
    with torch.no_grad():
        layer.weight.mul_(1e-5)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
