"""Networks beyond what the conformance tests say of all of them."""

from __future__ import annotations

import math

import pytest
import torch

from gcsearch.science.networks.base import PositionalEmbedding, initialize
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.networks.unet import UNet


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_perceptron_has_the_published_number_of_parameters():
    assert count(initialize(MLP(), (2,), 0)) == 198_402


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
@pytest.mark.parametrize("channel_mult", [(1,), (1, 2), (1, 2, 3)])
@pytest.mark.parametrize(("channels", "patch_size"), [(8, 1), (24, 1), (8, 2)])
def test_unet_takes_every_shape_its_check_lets_through(shape, channel_mult, channels, patch_size):
    settings = UNet(channels=channels, channel_mult=channel_mult, num_blocks=1, patch_size=patch_size)
    settings.check(shape)
    assert initialize(settings, shape, 0)(torch.zeros(1, *shape), torch.zeros(1), None).shape == (1, *shape)


@pytest.mark.parametrize(("shape", "message"), [((2,), "needs images"), ((1, 6, 8), "6 x 8"), ((1, 8, 10), "8 x 10")])
def test_unet_refuses_shapes_it_cannot_take(shape, message):
    with pytest.raises(ValueError, match=message):
        UNet(channel_mult=(1, 2, 2)).check(shape)


def test_unet_counts_patches_when_it_checks_a_shape():
    UNet(channel_mult=(1, 2), patch_size=2).check((1, 4, 12))
    with pytest.raises(ValueError, match="6 x 8"):
        UNet(channel_mult=(1, 2), patch_size=2).check((1, 6, 8))


@pytest.mark.parametrize("patch_size", [1, 2])
def test_unet_changes_the_output_where_its_input_changes(patch_size, rng):
    module = initialize(UNet(channels=8, channel_mult=(1,), num_blocks=1, patch_size=patch_size), (1, 32, 32), 0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            # Without convolutions in the blocks only the stem and the head look at neighbours.
            parameter.normal_(0, 0.0 if "conv_" in name else 0.3, generator=rng)
    x = torch.zeros(1, 1, 32, 32)
    x[0, 0, 9, 22] = 10.0
    change = module(x, torch.zeros(1), None) - module(torch.zeros_like(x), torch.zeros(1), None)
    # Group norm moves every pixel a little; the largest change is at the pixel's place.
    row, column = divmod(int(change.abs().argmax()), 32)
    assert abs(row - 9) <= 3 * patch_size
    assert abs(column - 22) <= 3 * patch_size


def test_unet_gives_the_same_numbers_for_both_memory_layouts(rng):
    module = initialize(UNet(channels=8), (3, 8, 8), 0)
    x, conditioning = torch.randn(2, 3, 8, 8, generator=rng), torch.zeros(2)
    last = module(x.contiguous(memory_format=torch.channels_last), conditioning, None)
    torch.testing.assert_close(module(x.contiguous(), conditioning, None), last)


def test_weights_are_drawn_without_touching_the_generators_of_other_devices(monkeypatch):
    # torch.manual_seed seeds the GPUs too, at once or when they are first used.
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    initialize(MLP(width=8), (2,), 7)
    assert seeded == []


@pytest.mark.gpu
def test_weights_are_drawn_without_touching_the_generator_of_the_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    before = torch.cuda.get_rng_state()
    initialize(MLP(width=8), (2,), 7)
    torch.testing.assert_close(torch.cuda.get_rng_state(), before, rtol=0, atol=0)


def test_embedding_is_sines_and_cosines_at_geometric_frequencies():
    embedding = PositionalEmbedding(8)(torch.tensor([-1.5, 0.7]))
    for row, value in enumerate((-1.5, 0.7)):
        angles = [value * 10_000 ** (-index / 3) for index in range(4)]
        expected = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        torch.testing.assert_close(embedding[row], torch.tensor(expected))


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (MLP, {"width": 3}, "width must be an even number"),
        (MLP, {"dropout": 1.0}, "dropout must be in"),
        (UNet, {"patch_size": 0}, "patch_size must be at least 1"),
        (UNet, {"channels": 12}, "channels must be a multiple of 8"),
        (UNet, {"channel_mult": ()}, "channel_mult must be"),
        (UNet, {"num_blocks": 0}, "num_blocks must be at least 1"),
        (UNet, {"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_meaningless_settings_are_rejected_by_name(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)
