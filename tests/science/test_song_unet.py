"""The paper's image network: its published sizes and first weights, its structure and its settings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gcsearch.config import build
from gcsearch.errors import ConfigError
from gcsearch.registry import spec
from gcsearch.science.dropout import Dropout, seed_tensor
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.song_layers import Attention, Resampling
from gcsearch.science.networks.song_unet import SongUNet

NCSN = {
    "embedding": "fourier",
    "encoder": "residual",
    "resample_filter": (1, 3, 3, 1),
    "channel_mult_noise": 2,
}
"""What makes NCSN++ of DDPM++."""


# Sizes ------------------------------------------------------------------------------------------------------------


def count(settings, event_shape):
    settings.check(event_shape)
    with torch.device("meta"):
        module = settings.build(event_shape)
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("values", "side", "millions"),
    [
        pytest.param({}, 32, 34.71, id="GC's CIFAR-10"),
        pytest.param(
            {"channel_mult": (1, 1, 2), "num_blocks": (3, 5, 7), "attn_resolutions": (16,)}, 32, 39.48, id="GC's IN-32"
        ),
        pytest.param(
            {"channel_mult": (1, 1, 2), "num_blocks": (4, 5, 7), "attn_resolutions": (16,)}, 32, 40.38, id="v1's IN-32"
        ),
        pytest.param({"channel_mult": (1, 2, 2, 2), "num_blocks": (3, 3, 4, 5)}, 64, 59.58, id="GC's CelebA"),
        pytest.param({"channel_mult": (1, 2, 2, 2), "num_blocks": (2, 3, 4, 5)}, 64, 58.68, id="v1's CelebA"),
        pytest.param({"channel_mult": (2, 2, 2), "num_blocks": 4, "attn_resolutions": (16,)}, 32, 55.73, id="DDPM++"),
        pytest.param(
            {"channel_mult": (2, 2, 2), "num_blocks": 4, "attn_resolutions": (16,), **NCSN}, 32, 56.40, id="NCSN++"
        ),
        pytest.param({"channels": 64, "num_blocks": 2}, 32, 6.79, id="64 channels"),
        pytest.param({"channels": 32, "num_blocks": 2}, 32, 1.70, id="32 channels"),
    ],
)
def test_network_has_the_published_number_of_parameters(values, side, millions):
    # Counted in the published code; the project's science notes, G.1.
    assert round(count(SongUNet(**values), (3, side, side)) / 1e6, 2) == millions


def conv(inputs, outputs, size):
    return inputs * outputs * size**2 + outputs


def block(inputs, outputs, attention=False, resampled=False):
    skip = conv(inputs, outputs, 1) if resampled or inputs != outputs else 0
    qkv_and_out = 2 * outputs + conv(outputs, 3 * outputs, 1) + conv(outputs, outputs, 1) if attention else 0
    norms, level = 2 * inputs + 2 * outputs, 512 * outputs + outputs
    return norms + level + conv(inputs, outputs, 3) + conv(outputs, outputs, 3) + skip + qkv_and_out


def test_the_layers_of_the_network_for_cifar_add_up():
    embedding = (128 * 512 + 512) + (512 * 512 + 512)
    full = conv(3, 128, 3) + 3 * block(128, 128)
    half = block(128, 128, resampled=True) + block(128, 256) + 2 * block(256, 256)
    quarter = block(256, 256, resampled=True) + 3 * block(256, 256)
    middle = block(256, 256, attention=True) + block(256, 256)
    quarter_up = 4 * block(256 + 256, 256)
    half_up = block(256, 256, resampled=True) + 3 * block(256 + 256, 256) + block(256 + 128, 256)
    full_up = block(256, 256, resampled=True) + block(256 + 128, 128) + 3 * block(128 + 128, 128)
    head = 2 * 128 + conv(128, 3, 3)
    total = embedding + full + half + quarter + middle + quarter_up + half_up + full_up + head
    assert count(SongUNet(), (3, 32, 32)) == total


def test_the_residual_path_adds_a_convolution_per_lower_resolution():
    plain, residual = (SongUNet(channel_mult=(2, 3, 4), encoder=encoder) for encoder in ("standard", "residual"))
    assert count(residual, (3, 32, 32)) - count(plain, (3, 32, 32)) == conv(3, 256, 3) + conv(256, 384, 3)


def test_weights_are_uniform_with_the_published_gains():
    module = initialize(SongUNet(channels=32, channel_mult=(1,), num_blocks=1), (3, 8, 8), 0)
    gains = {"conv_out": 1e-5, "head": 1e-5, "attention.out": 1e-5, "attention.qkv": math.sqrt(0.2)}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            gain = next((gain for end, gain in gains.items() if name.endswith(end)), 1.0)
            outputs, inputs, *window = layer.weight.shape
            bound = gain * math.sqrt(6 / ((inputs + outputs) * math.prod(window)))
            weight = layer.weight.detach()
            assert 0.97 * bound < weight.abs().max() <= bound, name
            assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.07), name
            assert not layer.bias.any(), name


# Structure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dropout", "by_height"), [(0.25, (0.25, 0.25, 0.25)), ((0.0, 0.5, 0.75), (0.0, 0.5, 0.75))])
def test_dropout_of_a_resolution_reaches_exactly_its_blocks(dropout, by_height, monkeypatch):
    calls, seed = [], seed_tensor(0)

    def spy(layer, x, given):
        calls.append((x.shape[2], layer.probability))
        assert given is seed
        return x

    monkeypatch.setattr(Dropout, "forward", spy)
    settings = SongUNet(channels=8, num_blocks=(1, 2, 3), dropout=dropout)
    initialize(settings, (1, 16, 16), 0)(torch.zeros(1, 1, 16, 16), torch.zeros(1), seed)
    expected = {height: probability for height, probability in zip((16, 8, 4), by_height, strict=True)}
    assert all(probability == expected[height] for height, probability in calls)
    # Encoder, decoder, the block that changes the resolution; at the lowest two in the middle, none that goes up.
    heights = [height for height, _ in calls]
    assert [heights.count(height) for height in (16, 8, 4)] == [1 + 2 + 1, 1 + 2 + 3 + 1, 1 + 3 + 2 + 4]


@pytest.mark.parametrize(
    ("attn_resolutions", "encoder", "decoder"),
    [
        ((), ".. v.. v...", ".... ^... ^..."),
        ((16,), "aa v.. v...", ".... ^... ^..a"),
        ((8, 4), ".. vaa vaaa", "...a ^..a ^..."),
    ],
)
def test_attention_is_where_it_is_asked_for_and_in_the_first_block_of_the_decoder(attn_resolutions, encoder, decoder):
    settings = SongUNet(channels=8, num_blocks=(2, 2, 3), attn_resolutions=attn_resolutions)
    module = initialize(settings, (1, 16, 16), 0)

    def marks(blocks):
        """v: goes down, ^: goes up, a: has attention."""
        sides = {"down": " v", "up": " ^", None: ""}
        return "".join(
            sides[getattr(block.resample, "direction", None)]
            or ("a" if isinstance(block.attention, Attention) else ".")
            for block in blocks
        )

    assert marks(module.middle) == "a."
    assert (marks(module.encoder), marks(module.decoder)) == (encoder, decoder)
    changing = [block for block in [*module.encoder, *module.decoder] if isinstance(block.resample, Resampling)]
    assert not any(isinstance(block.attention, Attention) for block in changing)


# Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"num_blocks": [3, 5, 7]},
        {"num_blocks": 2, "dropout": [0, 0.2, 0.2]},
        {"channel_mult": [1, 2, 2, 2], "num_blocks": [3, 3, 4, 5], "attn_resolutions": [16, 8]},
        {**NCSN, "resample_filter": [1, 3, 3, 1]},
    ],
)
def test_settings_come_from_plain_data_and_go_back(values):
    settings = build("network", {"name": "song_unet", **values})
    description = spec(settings)
    assert build("network", description) == settings
    assert hash(build("network", description)) == hash(settings)
    assert {key: description[key] for key in values} == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_blocks": (3, 5)}, r"num_blocks must have one entry per resolution \(3\), got \[3, 5\]"),
        ({"dropout": (0.0, 0.1, 0.2, 0.3)}, r"dropout must have one entry per resolution \(3\), got \[0.0, 0.1"),
        ({"num_blocks": (3, 0, 1)}, r"num_blocks must be at least 1, got \[3, 0, 1\]"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"dropout": (0.0, 1.0, 0.0)}, r"dropout must be in \[0, 1\), got \[0.0, 1.0, 0.0\]"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        ({"dropout": (0.0, math.nan, 0.0)}, "dropout must be in"),
        ({"channels": 6}, "channels must be a multiple of 4, got 6"),
        ({"channels": 0}, "channels must be a multiple of 4, got 0"),
        ({"channel_mult": ()}, "channel_mult must be"),
        ({"channel_mult": (1, 0, 1)}, "channel_mult must be"),
        ({"resample_filter": (1, 2, 1)}, r"resample_filter must have an even number .*, got \[1, 2, 1\]"),
        ({"resample_filter": ()}, "resample_filter must have an even number"),
        ({"resample_filter": (1, -1)}, "positive sum"),
        ({"channel_mult_emb": 0}, "channel_mult_emb must be at least 1"),
        ({"channel_mult_noise": 0}, "channel_mult_noise must be at least 1"),
        ({"fourier_scale": 0.0}, "fourier_scale must be > 0"),
    ],
)
def test_meaningless_settings_are_rejected_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        SongUNet(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_blocks": [3, 5]}, "num_blocks must have one entry per resolution"),
        ({"num_blocks": "three"}, "num_blocks must be an integer or a list of numbers, got 'three'"),
        ({"num_blocks": [3, 5, 7.5]}, "num_blocks must be an integer or a list of numbers"),
        ({"dropout": True}, "dropout must be a number or a list of numbers"),
        ({"embedding": "sinus"}, "embedding must be one of 'positional', 'fourier'"),
        ({"encoder": "skip"}, "encoder must be one of 'standard', 'residual'"),
    ],
)
def test_wrong_entries_of_an_experiment_are_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        build("network", {"name": "song_unet", **values})


@pytest.mark.parametrize(
    ("values", "shape", "message"),
    [
        ({}, (2,), "needs images .* network.name=mlp"),
        ({}, (3, 6, 8), "multiples of .* = 4, got images of 6 x 8. Shorten channel_mult"),
        ({}, (3, 8, 10), "8 x 10"),
        ({"attn_resolutions": (32,)}, (3, 16, 32), r"the network sees, \[16, 8, 4\], got \[32\]"),
        ({"attn_resolutions": (16, 12)}, (3, 32, 32), r"the network sees, \[32, 16, 8\], got \[16, 12\]"),
    ],
)
def test_shapes_it_cannot_take_are_refused(values, shape, message):
    with pytest.raises(ValueError, match=message):
        SongUNet(**values).check(shape)
