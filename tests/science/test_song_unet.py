"""The paper's image network: its published sizes, its layers written out a second time, and its derivatives."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gcsearch.config import build
from gcsearch.errors import ConfigError
from gcsearch.registry import spec
from gcsearch.science.networks import song_layers
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.song_layers import Attention, Block, FourierEmbedding, Resampling, group_norm
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


def awake(settings, event_shape=(2, 8, 8), seed=0):
    """The module in double precision with random weights of a size that makes every layer matter."""
    module, rng = initialize(settings, event_shape, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.1)
    return module.double()


def double(*shape, seed=1):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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


# Layers -----------------------------------------------------------------------------------------------------------


def test_forward_pass_is_the_network_written_out_by_hand():
    module = awake(SongUNet(channels=8, channel_mult=(1, 2), num_blocks=1), (2, 4, 4))
    x, conditioning = double(3, 2, 4, 4), torch.tensor([-1.5, 0.2, 1.1], dtype=torch.float64)
    silu, blocks = functional.silu, [*module.encoder, *module.middle, *module.decoder]

    def norm(layer, values):  # of four channels per group
        groups = values.reshape(len(values), -1, 4, *values.shape[2:])
        mean, variance = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), keepdim=True, correction=0)
        normal = ((groups - mean) / (variance + 1e-6).sqrt()).reshape(values.shape)
        return normal * layer.weight[:, None, None] + layer.bias[:, None, None]

    def conv3(layer, values):
        return functional.conv2d(values, layer.weight, layer.bias, padding=1)

    def residual(index, values, resample=lambda images: images):
        layer = blocks[index]
        hidden = conv3(layer.conv_in, resample(silu(norm(layer.norm_in, values))))
        hidden = hidden + functional.linear(embedding, layer.affine.weight, layer.affine.bias)[:, :, None, None]
        hidden = conv3(layer.conv_out, silu(norm(layer.norm_out, hidden)))
        skip = resample(values)
        if isinstance(layer.skip, nn.Conv2d):
            skip = functional.conv2d(skip, layer.skip.weight, layer.skip.bias)
        return (hidden + skip) / math.sqrt(2)

    def halve(images):
        return (
            images[:, :, ::2, ::2] + images[:, :, 1::2, ::2] + images[:, :, ::2, 1::2] + images[:, :, 1::2, 1::2]
        ) / 4

    def twice(images):
        return images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    _, first, _, second, _ = module.embedding
    angles = conditioning[:, None] * torch.tensor([10_000 ** (-index / 3) for index in range(4)], dtype=torch.float64)
    embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
    embedding = silu(silu(embedding @ first.weight.T + first.bias) @ second.weight.T + second.bias)

    a = conv3(module.stem, x)
    b = residual(0, a)
    c = residual(1, b, halve)
    d = residual(2, c)
    middle = residual(4, blocks[3].attention(residual(3, d)))
    low = residual(6, torch.cat([residual(5, torch.cat([middle, d], 1)), c], 1))
    high = residual(7, low, twice)
    high = residual(9, torch.cat([residual(8, torch.cat([high, b], 1)), a], 1))
    expected = conv3(module.head, silu(norm(module.norm, high)))
    assert len(blocks) == 10
    # The embedding's frequencies are kept in single precision.
    torch.testing.assert_close(module(x, conditioning, None), expected, rtol=1e-5, atol=1e-5)


def test_attention_mixes_the_values_by_the_softmax_of_scaled_products():
    module = Attention(8).double()
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(double(*parameter.shape, seed=seed))
    x = double(2, 8, 2, 3)
    output = module(x)
    assert module.norm.num_groups == 2
    for example in range(2):
        normal = module.norm(x[example : example + 1])[0].flatten(1).detach().numpy()
        weight, bias = module.qkv.weight.detach().numpy()[:, :, 0, 0], module.qkv.bias.detach().numpy()
        query, key, value = np.split(weight @ normal + bias[:, None], 3)
        mixed = np.zeros_like(value)
        for pixel in range(6):
            weights = np.exp([query[:, pixel] @ key[:, other] / math.sqrt(8) for other in range(6)])
            mixed[:, pixel] = value @ (weights / weights.sum())
        out = module.out.weight.detach().numpy()[:, :, 0, 0] @ mixed + module.out.bias.detach().numpy()[:, None]
        expected = (x[example].flatten(1) + torch.from_numpy(out)) / math.sqrt(2)
        torch.testing.assert_close(output[example].flatten(1), expected)


@pytest.mark.parametrize("weights", [(1, 1), (2, 2), (1, 3, 3, 1), (1, 2, 4, 4, 2, 1)])
def test_resampling_filters_and_picks_every_second_pixel(weights):
    image = double(1, 2, 6, 8)
    reach = len(weights) // 2 - 1
    line = np.array(weights) / sum(weights)
    down, up = np.zeros((2, 3, 4)), np.zeros((2, 12 + 2 * reach, 16 + 2 * reach))
    padded = np.pad(image[0].numpy(), ((0, 0), (reach, reach), (reach, reach)))
    for row in range(3):
        for column in range(4):
            window = padded[:, 2 * row : 2 * row + len(weights), 2 * column : 2 * column + len(weights)]
            down[:, row, column] = np.einsum("crk,r,k->c", window, line, line)
    for row in range(6):
        for column in range(8):
            spread = np.einsum("c,r,k->crk", image[0, :, row, column].numpy(), 2 * line, 2 * line)
            up[:, 2 * row : 2 * row + len(weights), 2 * column : 2 * column + len(weights)] += spread
    up = up[:, reach : reach + 12, reach : reach + 16]
    for direction, expected in (("down", down), ("up", up)):
        output = Resampling(direction, weights).double()(image)
        torch.testing.assert_close(output[0], torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", [(1, 1), (1, 3, 3, 1)])
def test_image_path_is_a_convolution_of_stride_two_of_the_blurred_image(weights):
    path = song_layers.image_downsampling(2, 3, weights).double()
    nn.init.normal_(path[0].bias, generator=torch.Generator().manual_seed(0))
    image, reach = double(1, 2, 8, 8), len(weights) // 2 - 1
    line = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    kernel = line.outer(line).expand(2, 1, -1, -1)
    blurred = functional.conv2d(functional.pad(image, [reach + 1] * 4), kernel, groups=2)
    expected = functional.conv2d(blurred, path[0].weight, path[0].bias, stride=2)
    torch.testing.assert_close(path(image), expected)


def test_encoder_of_the_residual_kind_adds_the_image_and_carries_the_sum_on():
    module, seen = awake(SongUNet(channels=8, channel_mult=(1, 1, 1), num_blocks=1, encoder="residual")), {}
    first, second = module.image_path.values()
    for name, layer in {
        "first": first,
        "second": second,
        "down": module.encoder[1],
        "after": module.encoder[2],
    }.items():
        layer.register_forward_hook(lambda _, args, output, name=name: seen.update({name: (args[0], output)}))
    x = double(2, 2, 8, 8)
    module(x, double(2), None)
    torch.testing.assert_close(seen["first"][0], x, rtol=0, atol=0)
    total = (seen["down"][1] + seen["first"][1]) / math.sqrt(2)
    torch.testing.assert_close(seen["after"][0], total)
    torch.testing.assert_close(seen["second"][0], total)


@pytest.mark.parametrize("num", [1, 2])
def test_positional_embedding_has_sines_first_and_the_slowest_frequency_last(num):
    module = initialize(SongUNet(channels=8, num_blocks=1, channel_mult_noise=num), (1, 8, 8), 0)
    embedding = module.embedding[0](torch.tensor([0.7]))[0]
    half = 4 * num
    assert embedding.shape == (2 * half,)
    for index, value in ((0, math.sin(0.7)), (half, math.cos(0.7)), (half - 1, math.sin(0.7e-4))):
        torch.testing.assert_close(embedding[index], torch.tensor(value))


def test_fourier_embedding_draws_its_frequencies_from_a_normal_and_saves_them():
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


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 2), (96, 24), (128, 32), (384, 32), (144, 24), (132, 22)])
def test_groups_have_at_least_four_channels_and_are_at_most_32(channels, groups):
    norm = group_norm(channels)
    assert (norm.num_groups, norm.eps) == (groups, 1e-6)


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


# Derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", FLAVOURS)
@pytest.mark.parametrize("moves", ["input", "conditioning", "both"])
def test_forward_mode_derivative_equals_finite_differences(settings, moves):
    module = awake(settings)
    x, conditioning = double(2, 2, 8, 8), torch.tensor([-1.2, 0.3], dtype=torch.float64)
    dx = double(2, 2, 8, 8, seed=2) * (moves != "conditioning")
    dc = double(2, seed=3) * (moves != "input")

    def function(x, conditioning):
        return module(x, conditioning, torch.Generator().manual_seed(4))

    value, derivative = torch.func.jvp(function, (x, conditioning), (dx, dc))
    step = 1e-5 if settings.embedding == "positional" else 1e-6
    ahead, behind = (function(x + sign * step * dx, conditioning + sign * step * dc) for sign in (1, -1))
    assert derivative.abs().max() > 0.1
    torch.testing.assert_close(value, function(x, conditioning))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", FLAVOURS)
def test_second_derivative_equals_finite_differences_of_the_first(settings):
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


def test_gradient_of_a_forward_mode_derivative_reaches_the_weights():
    module = awake(SMALL)
    x, conditioning = double(1, 2, 8, 8), double(1)
    inputs, tangents = (x, conditioning), (double(1, 2, 8, 8, seed=2), double(1, seed=3))
    _, derivative = torch.func.jvp(lambda *given: module(*given, None), inputs, tangents)
    derivative.square().sum().backward()
    # A bias of the last layer is the one thing the derivative does not depend on.
    silent = [name for name, weight in module.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == ["head.bias"]


# Structure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dropout", "by_height"), [(0.25, (0.25, 0.25, 0.25)), ((0.0, 0.5, 0.75), (0.0, 0.5, 0.75))])
def test_dropout_of_a_resolution_reaches_exactly_its_blocks(dropout, by_height, monkeypatch):
    calls = []

    def spy(x, probability, generator):
        calls.append((x.shape[2], probability))
        assert generator is stream
        return x

    monkeypatch.setattr(song_layers, "drop", spy)
    stream = torch.Generator()
    settings = SongUNet(channels=8, num_blocks=(1, 2, 3), dropout=dropout)
    initialize(settings, (1, 16, 16), 0)(torch.zeros(1, 1, 16, 16), torch.zeros(1), stream)
    expected = {height: probability for height, probability in zip((16, 8, 4), by_height, strict=True)}
    assert all(probability == expected[height] for height, probability in calls)
    # Encoder, decoder, the block that changes the resolution; at the lowest two in the middle, none that goes up.
    heights = [height for height, _ in calls]
    assert [heights.count(height) for height in (16, 8, 4)] == [1 + 2 + 1, 1 + 2 + 3 + 1, 1 + 3 + 2 + 4]


def test_dropout_changes_the_output_with_a_generator_only():
    module = awake(SongUNet(channels=8, channel_mult=(1, 1), num_blocks=1, dropout=(0.0, 0.5)))
    dry = awake(SongUNet(channels=8, channel_mult=(1, 1), num_blocks=1))
    x, conditioning = double(1, 2, 8, 8), double(1)
    torch.testing.assert_close(module(x, conditioning, None), dry(x, conditioning, None), rtol=0, atol=0)
    outputs = [module(x, conditioning, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert (outputs[0] != outputs[2]).any()
    assert (outputs[0] != dry(x, conditioning, torch.Generator().manual_seed(5))).any()


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


# Invariances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", FLAVOURS)
def test_output_of_an_example_ignores_the_others(settings):
    module, x, conditioning = awake(settings), double(4, 2, 8, 8), double(4)
    alone = torch.cat([module(x[row : row + 1], conditioning[row : row + 1], None) for row in range(4)])
    torch.testing.assert_close(module(x, conditioning, None), alone)


@pytest.mark.parametrize("settings", FLAVOURS)
def test_memory_layout_of_input_and_weights_does_not_matter(settings):
    module, x, conditioning = awake(settings), double(2, 2, 8, 8), double(2)
    assert module.stem.weight.is_contiguous(memory_format=torch.channels_last)
    first = module(x.contiguous(), conditioning, torch.Generator())
    last = module(x.contiguous(memory_format=torch.channels_last), conditioning, torch.Generator())
    torch.testing.assert_close(first, last)
    module.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(module(x, conditioning, torch.Generator()), first)


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


def test_in_bf16_the_level_and_the_softmax_stay_in_single_precision(rng):
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
    pytest.param(SMALL, [0.370066, -1.543165, 1.276260, 0.314041, 0.089596, 0.573269], id="ddpm++"),
    pytest.param(SMALL_NCSN, [-0.925016, 0.880815, -0.955497, -1.945875, -0.110913, 0.431611], id="ncsn++"),
]
"""First run of this code, torch 2.15.0 on a CPU: four pixels, mean and mean square of the output.

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
    output = module(x, torch.tensor([-1.4, 0.9]), torch.Generator().manual_seed(1)).detach()
    numbers = torch.stack([*output[:, :, 2, 5].flatten(), output.mean(), output.square().mean()])
    torch.testing.assert_close(numbers, torch.tensor(expected), rtol=1e-4, atol=1e-5)


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
