"""Networks as continuous-time objectives use them: forward-mode derivatives, further conditions, modulation."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gcsearch.science.dropout import seed_tensor
from gcsearch.science.networks.base import initialize, modulate, pixel_norm
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.networks.song_unet import SongUNet
from gcsearch.science.networks.unet import UNet

NCSN = SongUNet(
    channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(8,),
    embedding="fourier",
    fourier_scale=0.02,
    encoder="residual",
    resample_filter=(1, 3, 3, 1),
    channel_mult_noise=2,
    dropout=0.3,
)
DDPM = SongUNet(channels=8, channel_mult=(1, 2), num_blocks=1, dropout=0.3, modulation="scale_shift")
NETWORKS = {
    "mlp": MLP(width=16, dropout=0.3),
    "unet": UNet(channels=8, num_blocks=1, dropout=0.3, patch_size=2),
    "unet-scale_shift": UNet(channels=8, num_blocks=1, dropout=0.3, modulation="scale_shift"),
    "unet-pixel_norm": UNet(channels=8, num_blocks=1, dropout=0.3, modulation="pixel_norm"),
    "ddpm": DDPM,
    "ncsn": NCSN,
    "ncsn-pixel_norm": dataclasses.replace(NCSN, modulation="pixel_norm"),
}


def shaken(settings, num_conditions=1):
    """The module in double precision, with weights that all matter."""
    module, rng = initialize(settings, (1, 8, 8), 0, num_conditions), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.1)
    return module.double()


@pytest.mark.parametrize(("num_conditions", "dropout"), [(1, None), (2, 5)])
@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_forward_mode_derivative_equals_a_finite_difference(settings, dropout, num_conditions, double):
    module, seed = shaken(settings, num_conditions), None if dropout is None else seed_tensor(dropout)
    x, slope = double(3, 1, 8, 8), double(3, 1, 8, 8, seed=2)
    shape = (3,) if num_conditions == 1 else (3, 2)
    told, told_slope = double(*shape, seed=3).abs(), double(*shape, seed=4)
    with torch.no_grad():
        value, got = torch.func.jvp(lambda a, b: module(a, b, seed), (x, told), (slope, told_slope))
        step = 1e-5
        ahead, behind = (module(x + h * slope, told + h * told_slope, seed) for h in (step, -step))
    torch.testing.assert_close(value, module(x, told, seed))
    torch.testing.assert_close(got, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)
    assert got.abs().mean() > 1e-3


@pytest.mark.parametrize(
    "settings", [MLP(width=16), UNet(channels=8, num_blocks=1), NCSN], ids=["mlp", "unet", "song_unet"]
)
class TestFurtherCondition:
    def test_adds_weights_and_changes_no_others(self, settings):
        plain, told = (initialize(settings, (1, 8, 8), 3, num).state_dict() for num in (1, 2))
        assert plain.keys() < told.keys()
        for name, value in plain.items():
            torch.testing.assert_close(told[name], value, rtol=0, atol=0)

    def test_starts_without_effect(self, settings, double):
        plain, told = (initialize(settings, (1, 8, 8), 3, num).double() for num in (1, 2))
        x, first, second = double(3, 1, 8, 8), double(3, seed=2), double(3, seed=3)
        expected = plain(x, first, None)
        torch.testing.assert_close(told(x, torch.stack([first, second], 1), None), expected, rtol=0, atol=1e-14)

    def test_is_told_and_reaches_every_weight(self, settings, double):
        module, x = shaken(settings, 2), double(3, 1, 8, 8)
        first, second = double(3, seed=2), double(3, seed=3)
        told = torch.stack([first, second], 1)
        output = module(x, told, None)
        assert (output - module(x, told.flip(1), None)).abs().mean() > 1e-4
        assert (output - module(x, torch.stack([first, first], 1), None)).abs().mean() > 1e-4
        output.square().sum().backward()
        assert [name for name, weight in module.named_parameters() if weight.grad is None] == []

    def test_output_weight_is_that_of_the_last_layer(self, settings, double):
        module = shaken(settings, 2)
        told = torch.stack([double(2), double(2)], 1)
        with torch.no_grad():
            module.output_weight.zero_()
        spread = module(double(2, 1, 8, 8), told, None).flatten(1)  # the bias alone: one number per channel
        assert any(module.output_weight is weight for weight in module.parameters())
        if not isinstance(settings, MLP):
            torch.testing.assert_close(spread.std(1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
        else:
            torch.testing.assert_close(spread[0], spread[1], rtol=0, atol=0)


def test_pixel_norm_scale_and_shift_do_not_grow_with_what_the_block_makes_of_the_level(double):
    hidden, level, identity = double(2, 4, 3, 3), double(2, 8, seed=2), torch.nn.Identity()
    torch.testing.assert_close(pixel_norm(level).square().mean(1), torch.ones(2).double(), rtol=1e-6, atol=0)
    once, more = (modulate(hidden, identity, factor * level, "pixel_norm") for factor in (1, 50))
    torch.testing.assert_close(once, more, rtol=1e-6, atol=1e-6)
    scale, shift = level.chunk(2, dim=1)
    expected = (1 + scale)[:, :, None, None] * hidden + shift[:, :, None, None]
    torch.testing.assert_close(modulate(hidden, identity, level, "scale_shift"), expected)
    torch.testing.assert_close(modulate(hidden, identity, scale, "shift"), hidden + scale[:, :, None, None])
