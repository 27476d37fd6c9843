"""What the paper's image network computes: at first, its derivatives, and what its output does not depend on."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from gcsearch.science.dropout import seed_tensor
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.song_layers import Attention, Block, FourierEmbedding
from gcsearch.science.networks.song_unet import SongUNet
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import VarianceExploding

NCSN = {
    "embedding": "fourier",
    "encoder": "residual",
    "resample_filter": (1, 3, 3, 1),
    "channel_mult_noise": 2,
}
"""What makes NCSN++ of DDPM++."""

SMALL = SongUNet(channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,))

SMALL_NCSN = SongUNet(channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,), **NCSN)

FLAVOURS = [pytest.param(SMALL, id="ddpm++"), pytest.param(SMALL_NCSN, id="ncsn++")]


# Beginning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", FLAVOURS)
def test_fresh_network_is_the_skip_connection(settings, rng):
    process = VarianceExploding()
    function = ConsistencyFunction(initialize(settings, (3, 8, 8), 0), process)
    sigma = torch.tensor([0.002, 0.5, 80.0])
    x = sigma[:, None, None, None] * torch.randn(3, 3, 8, 8, generator=rng)
    expected = process.preconditioning(sigma).skip[:, None, None, None] * x
    torch.testing.assert_close(function(x, sigma), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(function(x[:1], sigma[:1]), x[:1], rtol=0, atol=0)


def test_fourier_embedding_draws_its_frequencies_from_a_normal_and_saves_them(awake):
    torch.testing.assert_close(awake(SMALL_NCSN).state_dict()["embedding.0.frequencies"].shape, torch.Size([8]))
    module = FourierEmbedding(4096, 16.0)
    module.frequencies.copy_(16 * torch.randn(2048, generator=torch.Generator().manual_seed(0)))
    embedding = module(torch.tensor([0.0, 0.3]))
    torch.testing.assert_close(embedding[0], torch.cat([torch.zeros(2048), torch.ones(2048)]))
    angles = 0.3 * 2 * math.pi * module.frequencies.double()
    torch.testing.assert_close(embedding[1].double(), torch.cat([angles.sin(), angles.cos()]), rtol=1e-4, atol=1e-4)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        assert FourierEmbedding(4096, 5.0).frequencies.std() == pytest.approx(5.0, rel=0.05)


# Derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", FLAVOURS)
@pytest.mark.parametrize("moves", ["input", "conditioning", "both"])
def test_forward_mode_derivative_equals_finite_differences(awake, double, settings, moves):
    module = awake(settings)
    x, conditioning = double(2, 2, 8, 8), torch.tensor([-1.2, 0.3], dtype=torch.float64)
    dx = double(2, 2, 8, 8, seed=2) * (moves != "conditioning")
    dc = double(2, seed=3) * (moves != "input")

    def function(x, conditioning):
        return module(x, conditioning, seed_tensor(4))

    value, derivative = torch.func.jvp(function, (x, conditioning), (dx, dc))
    step = 1e-5 if settings.embedding == "positional" else 1e-6
    ahead, behind = (function(x + sign * step * dx, conditioning + sign * step * dc) for sign in (1, -1))
    assert derivative.abs().max() > 0.1
    torch.testing.assert_close(value, function(x, conditioning))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", FLAVOURS)
def test_second_derivative_equals_finite_differences_of_the_first(awake, double, settings):
    module = awake(settings)
    x, conditioning, direction = double(1, 2, 8, 8), double(1), double(1, 2, 8, 8, seed=2)

    def gradient(x):
        x = x.detach().requires_grad_()
        return x, torch.autograd.grad(module(x, conditioning, None).square().sum(), x, create_graph=True)[0]

    start, slope = gradient(x)
    (product,) = torch.autograd.grad((slope * direction).sum(), start)
    ahead, behind = (gradient(x + sign * 1e-5 * direction)[1].detach() for sign in (1, -1))
    assert product.abs().max() > 0.1
    torch.testing.assert_close(product, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-6)


def test_gradient_of_a_forward_mode_derivative_reaches_the_weights(awake, double):
    module = awake(SMALL)
    x, conditioning = double(1, 2, 8, 8), double(1)
    inputs, tangents = (x, conditioning), (double(1, 2, 8, 8, seed=2), double(1, seed=3))
    _, derivative = torch.func.jvp(lambda *given: module(*given, None), inputs, tangents)
    derivative.square().sum().backward()
    # A bias of the last layer is the one thing the derivative does not depend on.
    silent = [name for name, weight in module.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == ["head.bias"]


# Invariances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", FLAVOURS)
def test_output_of_an_example_ignores_the_others(awake, double, settings):
    module, x, conditioning = awake(settings), double(4, 2, 8, 8), double(4)
    alone = torch.cat([module(x[row : row + 1], conditioning[row : row + 1], None) for row in range(4)])
    torch.testing.assert_close(module(x, conditioning, None), alone)


@pytest.mark.parametrize("settings", FLAVOURS)
def test_memory_layout_of_input_and_weights_does_not_matter(awake, double, settings):
    module, x, conditioning = awake(settings), double(2, 2, 8, 8), double(2)
    assert module.stem.weight.is_contiguous(memory_format=torch.channels_last)
    first = module(x.contiguous(), conditioning, seed_tensor(0))
    last = module(x.contiguous(memory_format=torch.channels_last), conditioning, seed_tensor(0))
    torch.testing.assert_close(first, last)
    module.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(module(x, conditioning, seed_tensor(0)), first)


def test_dropout_changes_the_output_with_a_seed_only(awake, double):
    module = awake(SongUNet(channels=8, channel_mult=(1, 1), num_blocks=1, dropout=(0.0, 0.5)))
    dry = awake(SongUNet(channels=8, channel_mult=(1, 1), num_blocks=1))
    x, conditioning = double(1, 2, 8, 8), double(1)
    torch.testing.assert_close(module(x, conditioning, None), dry(x, conditioning, None), rtol=0, atol=0)
    outputs = [module(x, conditioning, seed_tensor(seed)) for seed in (5, 5, 6)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert (outputs[0] != outputs[2]).any()
    assert (outputs[0] != dry(x, conditioning, seed_tensor(5))).any()


@pytest.mark.parametrize("settings", FLAVOURS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 16), (4, 10, 6)])
def test_network_takes_every_shape_its_check_lets_through(settings, shape):
    settings = dataclasses.replace(settings, attn_resolutions=())
    settings.check(shape)
    assert initialize(settings, shape, 0)(torch.zeros(2, *shape), torch.zeros(2), None).shape == (2, *shape)


@pytest.mark.parametrize("channels", [4, 12, 24, 36])
def test_network_takes_every_width(channels):
    settings = SongUNet(channels=channels, channel_mult=(1, 2, 5), num_blocks=1)
    assert initialize(settings, (1, 4, 4), 0)(torch.zeros(1, 1, 4, 4), torch.zeros(1), None).isfinite().all()


def test_in_bf16_the_level_and_the_softmax_stay_in_single_precision(awake, rng):
    module, seen = awake(SMALL).float(), {}
    for layer in module.modules():
        if isinstance(layer, Block):
            layer.affine.register_forward_hook(lambda _, args, output: seen.update({id(output): output}))
    x, conditioning = torch.randn(2, 2, 8, 8, generator=rng), torch.tensor([0.5, 0.501])
    exact, outputs = module(x, conditioning, None), list(seen.values())
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = module(x, conditioning, None)
    assert rough.dtype == torch.bfloat16
    for first, second in zip(outputs, seen.values(), strict=True):
        torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


def test_in_bf16_large_scores_are_compared_in_single_precision():
    attention = Attention(4)
    with torch.no_grad():
        attention.norm.weight.zero_()
        attention.norm.bias.fill_(1.0)
        attention.qkv.weight.zero_()
        attention.qkv.bias.zero_()
    # Scores of 1000 and 1001.5 are one number in bf16 and a factor of four and a half in the softmax.
    query = torch.tensor([[[32.0, 1.0]]], dtype=torch.bfloat16)
    key = torch.tensor([[[62.5, 0.0], [62.5, 3.0]]], dtype=torch.bfloat16)
    padded = [functional.pad(tokens, (0, 2)) for tokens in (query.expand(1, 2, 2), key)]
    tokens = torch.cat([*padded, torch.tensor([[[0.0] * 4, [1.0] * 4]], dtype=torch.bfloat16)], dim=2)
    attention.qkv.register_forward_hook(lambda *_: tokens.transpose(1, 2).unflatten(2, (1, 2)))
    attention.out = nn.Identity()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = attention(torch.zeros(1, 4, 1, 2))
    expected = torch.full((1, 4, 1, 2), math.sqrt(0.5) / (1 + math.exp(-1.5)))
    torch.testing.assert_close(output.float(), expected, rtol=0.01, atol=0)


GOLDEN = [
    pytest.param(SMALL, [0.802619, -2.943847, 1.393340, -0.073862, 0.060091, 0.491657], id="ddpm++"),
    pytest.param(SMALL_NCSN, [-2.080791, -1.190044, 0.277812, -1.346116, -0.152681, 0.420560], id="ncsn++"),
]
"""First run of this code with masks from indices, torch 2.15.0 on a CPU: four pixels, mean and mean square of the
output. With masks from `torch.rand`, as before, the network still gave the numbers of its very first run.

A change of these numbers means that old checkpoints, or the weights that a seed gives, no longer hold.
"""


@pytest.mark.parametrize(("settings", "expected"), GOLDEN)
def test_numbers_have_not_moved_since_the_first_run(settings, expected):
    module = initialize(dataclasses.replace(settings, dropout=0.25), (2, 8, 8), 0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith(("conv_out.weight", "attention.out.weight", "head.weight")):
                weight.mul_(1e5)  # from near zero to the size of the others
    x = torch.arange(256).reshape(2, 2, 8, 8).mul(0.7).sin()
    output = module(x, torch.tensor([-1.4, 0.9]), seed_tensor(1)).detach()
    numbers = torch.stack([*output[:, :, 2, 5].flatten(), output.mean(), output.square().mean()])
    torch.testing.assert_close(numbers, torch.tensor(expected), rtol=1e-4, atol=1e-5)
