"""The layers of the paper's image network, written out a second time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gcsearch.science.networks import song_layers
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.song_layers import Attention, Resampling, group_norm
from gcsearch.science.networks.song_unet import SongUNet


def test_forward_pass_is_the_network_written_out_by_hand(awake, double):
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


def test_attention_mixes_the_values_by_the_softmax_of_scaled_products(double):
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
def test_resampling_filters_and_picks_every_second_pixel(double, weights):
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
def test_image_path_is_a_convolution_of_stride_two_of_the_blurred_image(double, weights):
    path = song_layers.image_downsampling(2, 3, weights).double()
    nn.init.normal_(path[0].bias, generator=torch.Generator().manual_seed(0))
    image, reach = double(1, 2, 8, 8), len(weights) // 2 - 1
    line = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    kernel = line.outer(line).expand(2, 1, -1, -1)
    blurred = functional.conv2d(functional.pad(image, [reach + 1] * 4), kernel, groups=2)
    expected = functional.conv2d(blurred, path[0].weight, path[0].bias, stride=2)
    torch.testing.assert_close(path(image), expected)


def test_encoder_of_the_residual_kind_adds_the_image_and_carries_the_sum_on(awake, double):
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


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 2), (96, 24), (128, 32), (384, 32), (144, 24), (132, 22)])
def test_groups_have_at_least_four_channels_and_are_at_most_32(channels, groups):
    norm = group_norm(channels)
    assert (norm.num_groups, norm.eps) == (groups, 1e-6)
