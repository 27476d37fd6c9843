"""The U-Net of EDM for images: DDPM++ with the default settings, NCSN++ with some others.

A resolution is counted by its depth: 0 is the image, each further one has half the height and width. The layers are
in `song_layers`.

Sources: EDM (arXiv:2206.00364) for the arrangement, Song et al. 2021 (arXiv:2011.13456) for DDPM++ and NCSN++.
Written from the project's science notes, G.1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcsearch.registry import plain
from gcsearch.science.dropout import Dropout
from gcsearch.science.networks.base import (
    FurtherConditions,
    Modulation,
    Network,
    PositionalEmbedding,
    embed,
    networks,
)
from gcsearch.science.networks.song_layers import (
    NEAR_ZERO,
    SKIP_SCALE,
    Block,
    FourierEmbedding,
    Resampling,
    convolution,
    dense,
    group_norm,
    image_downsampling,
)
from gcsearch.science.shapes import Conditions, DropoutSeed, Images

V = TypeVar("V", int, float)


@networks.register("song_unet")
@dataclass(frozen=True, kw_only=True)
class SongUNet(Network):
    """Residual blocks on a few resolutions with skips from encoder to decoder, and attention where asked for.

    The defaults are GC's network for CIFAR-10. EDM's DDPM++ for CIFAR-10 is ``channel_mult: [2, 2, 2], num_blocks: 4,
    attn_resolutions: [16]``; its NCSN++ has besides ``embedding: fourier, encoder: residual, resample_filter:
    [1, 3, 3, 1], channel_mult_noise: 2``.

    Attributes:
        channels: Channels of the first convolution, a multiple of 4; the unit of the other widths.
        channel_mult: Factor of `channels` at each resolution, from full down; the resolution halves between entries.
        num_blocks: Residual blocks of the encoder per resolution (the decoder has one more); a list gives each
            resolution its own number.
        dropout: Probability of zeroing an activation inside a block, in [0, 1); a list gives each resolution its own,
            in encoder and decoder alike.
        attn_resolutions: Heights of the feature maps whose blocks have attention. The first block of the decoder, at
            the lowest resolution, has it always.
        embedding: How the level enters: ``positional`` (DDPM++) or ``fourier`` (NCSN++).
        encoder: ``standard``, or ``residual``: the downsampled image is added at each lower resolution (NCSN++).
        resample_filter: Weights of the low-pass filter along each side, an even number of them: (1, 1) averages
            pixels (DDPM++), (1, 3, 3, 1) is NCSN++'s.
        channel_mult_emb: Factor of `channels` for the size of the level's embedding.
        channel_mult_noise: Factor of `channels` for the sines and cosines it is computed from; NCSN++ has 2.
        fourier_scale: Standard deviation of the frequencies of the ``fourier`` embedding, in periods. Objectives that
            differentiate by time need 0.02 or less.
        modulation: How the level enters a block: added before its second norm (``shift``), as scale and shift after it
            (``scale_shift``), or as scale and shift of unit size (``pixel_norm``), for continuous-time objectives.

    Source: EDM's SongUNet, with the lists of GC's code; no class labels, no augmentation labels.
    """

    max_conditions: ClassVar[int] = 2

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2)
    num_blocks: int | tuple[int, ...] = 3
    dropout: float | tuple[float, ...] = 0.0
    attn_resolutions: tuple[int, ...] = ()
    embedding: Literal["positional", "fourier"] = "positional"
    encoder: Literal["standard", "residual"] = "standard"
    resample_filter: tuple[int, ...] = (1, 1)
    channel_mult_emb: int = 4
    channel_mult_noise: int = 1
    fourier_scale: float = 16.0
    modulation: Modulation = "shift"

    def __post_init__(self) -> None:
        if self.channels < 4 or self.channels % 4:
            raise ValueError(f"channels must be a multiple of 4, got {self.channels}")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult must be a non-empty list of numbers >= 1, got {list(self.channel_mult)}")
        if min(each_resolution("num_blocks", self.num_blocks, self.channel_mult)) < 1:
            raise ValueError(f"num_blocks must be at least 1, got {plain(self.num_blocks)}")
        if not all(0 <= value < 1 for value in each_resolution("dropout", self.dropout, self.channel_mult)):
            raise ValueError(f"dropout must be in [0, 1), got {plain(self.dropout)}")
        weights = self.resample_filter
        if not weights or len(weights) % 2 or sum(weights) <= 0:
            raise ValueError(
                f"resample_filter must have an even number of weights with a positive sum, got {list(weights)}"
            )
        if self.channel_mult_emb < 1:
            raise ValueError(f"channel_mult_emb must be at least 1, got {self.channel_mult_emb}")
        if self.channel_mult_noise < 1:
            raise ValueError(f"channel_mult_noise must be at least 1, got {self.channel_mult_noise}")
        if not self.fourier_scale > 0:
            raise ValueError(f"fourier_scale must be > 0, got {self.fourier_scale}")

    def check(self, event_shape: tuple[int, ...]) -> None:
        if len(event_shape) != 3:
            raise ValueError(
                f"network 'song_unet' needs images (channels, height, width), the data has shape {event_shape}. "
                "Use network.name=mlp"
            )
        _, height, width = event_shape
        factor = 2 ** (len(self.channel_mult) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"height and width must be multiples of 2^(resolutions - 1) = {factor}, got images of "
                f"{height} x {width}. Shorten channel_mult"
            )
        heights = [height >> depth for depth in range(len(self.channel_mult))]
        if not set(self.attn_resolutions) <= set(heights):
            raise ValueError(
                f"attn_resolutions must be among the heights that the network sees, {heights}, "
                f"got {list(self.attn_resolutions)}"
            )

    def build(self, event_shape: tuple[int, ...], num_conditions: int = 1) -> nn.Module:
        # Channels last: faster convolutions on CPUs, and on GPUs in bf16.
        return SongUNetModule(event_shape, self, num_conditions).to(memory_format=torch.channels_last)


class SongUNetModule(nn.Module):
    """The module of `SongUNet`."""

    def __init__(self, event_shape: tuple[int, ...], settings: SongUNet, num_conditions: int = 1) -> None:
        super().__init__()
        channels, weights = settings.channels, settings.resample_filter
        widths = [channels * factor for factor in settings.channel_mult]
        num_blocks = each_resolution("num_blocks", settings.num_blocks, settings.channel_mult)
        dropout = each_resolution("dropout", settings.dropout, settings.channel_mult)
        attends = [event_shape[1] >> depth in settings.attn_resolutions for depth in range(len(widths))]
        layers = itertools.count()
        noise_size, size = channels * settings.channel_mult_noise, channels * settings.channel_mult_emb

        def block(
            inputs: int, outputs: int, depth: int, attention: bool = False, resampling: Resampling | None = None
        ) -> Block:
            return Block(
                inputs,
                outputs,
                size,
                Dropout(dropout[depth], next(layers)),
                attention,
                resampling,
                settings.modulation,
            )

        self.embedding = nn.Sequential(
            FourierEmbedding(noise_size, settings.fourier_scale)
            if settings.embedding == "fourier"
            else PositionalEmbedding(noise_size),
            dense(noise_size, size),
            nn.SiLU(),
            dense(size, size),
            nn.SiLU(),
        )

        self.stem = convolution(event_shape[0], channels, 3)
        self.encoder = nn.ModuleList()
        self.image_path = nn.ModuleDict()  # position in the encoder -> the image at the resolution reached there
        width, image_channels, skips = channels, event_shape[0], [channels]
        for depth, num in enumerate(num_blocks):
            if depth > 0:
                if settings.encoder == "residual":
                    self.image_path[str(len(self.encoder))] = image_downsampling(image_channels, width, weights)
                    image_channels = width
                self.encoder.append(block(width, width, depth, resampling=Resampling("down", weights)))
                skips.append(width)
            for _ in range(num):
                self.encoder.append(block(width, widths[depth], depth, attends[depth]))
                width = widths[depth]
                skips.append(width)

        last = len(widths) - 1
        self.middle = nn.ModuleList([block(width, width, last, attention=True), block(width, width, last)])
        self.decoder, self.joins = nn.ModuleList(), list[bool]()
        for depth, num in reversed(list(enumerate(num_blocks))):
            if depth < last:
                self.decoder.append(block(width, width, depth, resampling=Resampling("up", weights)))
                self.joins.append(False)
            for remaining in reversed(range(num + 1)):
                attention = attends[depth] and remaining == 0
                self.decoder.append(block(width + skips.pop(), widths[depth], depth, attention))
                self.joins.append(True)
                width = widths[depth]
        self.norm = group_norm(width)
        self.head = convolution(width, event_shape[0], 3, gain=NEAR_ZERO)
        # Made last, so that all other weights are the same with and without it.
        self.further = FurtherConditions(num_conditions - 1, noise_size, size) if num_conditions > 1 else None

    @property
    def output_weight(self) -> Tensor:
        """Weight of the last layer."""
        return self.head.weight

    def forward(self, x: Images, conditioning: Conditions, dropout: DropoutSeed | None = None) -> Tensor:
        """Output of the shape of `x`."""
        # Neighbouring levels differ by less than bf16 resolves.
        with torch.autocast(x.device.type, enabled=False):
            embedding = embed(conditioning, self.embedding, self.further)
        image = x.contiguous(memory_format=torch.channels_last)
        hidden = self.stem(image)
        skips = [hidden]
        for position, block in enumerate(self.encoder):
            hidden = block(hidden, embedding, dropout)
            if str(position) in self.image_path:
                hidden = image = (hidden + self.image_path[str(position)](image)) * SKIP_SCALE
            skips.append(hidden)
        for block in self.middle:
            hidden = block(hidden, embedding, dropout)
        for block, joins in zip(self.decoder, self.joins, strict=True):
            if joins:
                hidden = torch.cat([hidden, skips.pop()], dim=1)
            hidden = block(hidden, embedding, dropout)
        output: Tensor = self.head(functional.silu(self.norm(hidden)))
        return output


def each_resolution(name: str, value: V | Sequence[V], channel_mult: Sequence[int]) -> tuple[V, ...]:
    """One value per resolution: the given ones, or the single one repeated."""
    if isinstance(value, int | float):
        return (value,) * len(channel_mult)
    if len(value) != len(channel_mult):
        raise ValueError(f"{name} must have one entry per resolution ({len(channel_mult)}), got {list(value)}")
    return tuple(value)
