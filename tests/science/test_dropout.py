"""Dropout masks: what they are, that they are random, and that nothing but their arguments decides them."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from torch import nn

from gcsearch.science import dropout as module_of_dropout
from gcsearch.science.dropout import Dropout, keep_mask, layer_key, random_words, seed_of_rows, seed_tensor

SEED = seed_tensor(0)


def standardised(mask, probability=0.5):
    """Entries of mean 0 and variance 1, as float64."""
    return (mask.double() - (1 - probability)) / (probability * (1 - probability)) ** 0.5


def check_plausible(scores):
    """Fails unless independent standard normal numbers could be these, by the largest and by the mean square.

    The thresholds leave one false alarm in about a thousand to the tests below, had their seeds not been fixed.
    """
    scores = scores.flatten()
    num = scores.numel()
    assert 2 * num * stats.norm.sf(scores.abs().max().item()) > 1e-5, scores.abs().max()
    square = scores.square().sum().item()
    assert min(stats.chi2.cdf(square, num), stats.chi2.sf(square, num)) > 1e-5, square / num


def correlations(rows):
    """Correlation of every two rows, in units of its standard error. (N, n) -> (N (N - 1) / 2,)."""
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    return (rows @ rows.T / rows.shape[1] ** 0.5)[first, second]


# Definition -------------------------------------------------------------------------------------------------------


def split_mix(seed, num):
    """SplitMix64 as published, in Python's unbounded integers: its first `num` outputs."""
    for _ in range(num):
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        word = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        yield word ^ (word >> 31)


def expected_words(seed, layer, num):
    """The words of a layer: outputs of SplitMix64 from seed 0, with the first ones left out by setting its state."""
    start = (seed ^ layer_key(layer)) * 0x9E3779B97F4A7C15
    return [word >> 32 for word in split_mix(start * 0x9E3779B97F4A7C15 % 2**64, num)]


def low_bias(word):
    """lowbias32 as published."""
    word = (word ^ (word >> 16)) * 0x7FEB352D % 2**32
    word = (word ^ (word >> 15)) * 0x846CA68B % 2**32
    return word ^ (word >> 16)


def test_words_are_those_of_split_mix():
    # Seed 1234567: the reference output of Vigna's splitmix64.c.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert list(split_mix(1234567, 4)) == published
    assert [layer_key(layer) % 2**64 for layer in range(3)] == list(split_mix(0, 3))
    for seed, layer in itertools.product((0, 1, 2**63, 2**64 - 1), (0, 7)):
        words = [word % 2**32 for word in random_words(seed_tensor(seed), layer, torch.arange(500)).tolist()]
        assert words == expected_words(seed, layer, 500)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.999])
def test_entries_are_those_of_low_bias_of_row_xor_position(probability):
    num, channels, height, width = 3, 4, 2, 5
    words = expected_words(9, 2, channels * height * width + num)
    mask = keep_mask((num, channels, height, width), probability, seed_tensor(9), 2)
    for row, channel, y, x in itertools.product(*map(range, mask.shape)):
        word = words[-num + row] ^ words[(y * width + x) * channels + channel]
        mixed = low_bias(word ^ (word >> 16))  # an xor-shift by half the bits undoes itself
        signed = mixed - 2**32 if mixed >= 2**31 else mixed
        assert mask[row, channel, y, x] == (signed >= (probability - 0.5) * 2**32)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**63, 2**64 - 1, -1])
def test_seed_becomes_a_number_on_the_device_modulo_2_to_the_64(seed):
    tensor = seed_tensor(seed)
    assert (tensor.dtype, tensor.shape, tensor.item() % 2**64) == (torch.int64, (), seed % 2**64)


# Randomness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_share_of_dropped_entries_is_the_probability(probability, seed):
    mask = keep_mask((64, 32, 16, 16), probability, seed_tensor(seed), 0)
    dropped = int((~mask).sum())
    assert stats.binomtest(dropped, mask.numel(), probability).pvalue > 1e-5
    check_plausible(standardised(mask, probability).flatten(1).sum(1) / mask[0].numel() ** 0.5)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_masks_of_rows_are_independent(probability):
    mask = keep_mask((128, 8, 16, 16), probability, SEED, 0)
    check_plausible(correlations(standardised(mask, probability).flatten(1)))


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_masks_of_channels_and_positions_are_independent(probability):
    mask = keep_mask((4096, 8, 8, 4), probability, SEED, 0)
    check_plausible(correlations(standardised(mask, probability).flatten(1).T))


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_masks_of_layers_and_of_neighbouring_seeds_are_independent(probability):
    seeds = [*range(12), 2**32, 2**32 + 1, 2**63, 2**64 - 1]
    masks = [keep_mask((16, 256), probability, seed_tensor(seed), layer) for seed in seeds for layer in range(12)]
    rows = torch.stack([standardised(mask, probability).flatten() for mask in masks])
    check_plausible(correlations(rows))


def test_layers_of_other_shapes_share_no_rows_of_words():
    # Every word is met once: no layer's words are those of another one, shifted.
    words = torch.cat(
        [random_words(seed_tensor(seed), layer, torch.arange(500)) for seed in range(10) for layer in range(20)]
    )
    expected = words.numel() ** 2 / 2**33
    assert words.numel() - len(words.unique()) <= expected + 5 * expected**0.5


@pytest.mark.parametrize("shift", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 1, 1), (1, 1, 0, 0)])
def test_entries_are_independent_of_their_neighbours(shift):
    entries = standardised(keep_mask((64, 16, 32, 32), 0.5, SEED, 0))
    moved = entries.roll(shift, dims=(0, 1, 2, 3))
    assert abs((entries * moved).mean().item()) * entries.numel() ** 0.5 < 4.5


def test_patterns_of_eight_entries_are_equally_frequent():
    mask = keep_mask((64, 16, 32, 32), 0.5, SEED, 0).contiguous()
    for layout in (mask, mask.movedim(0, -1), mask.movedim(1, -1)):
        patterns = (layout.reshape(-1, 8).long() << torch.arange(8)).sum(1).bincount(minlength=256)
        assert 1e-5 < stats.chisquare(patterns.numpy()).pvalue < 1 - 1e-5


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_rectangles_of_four_entries_are_independent(probability):
    # Their words cancel, since each is a row's xor a position's: what the last hash has to hide.
    entries = standardised(keep_mask((1024, 1024), probability, SEED, 0), probability)
    first, second = entries[::2], entries[1::2]
    products = (first * second)[:, ::2] * (first * second)[:, 1::2]
    assert abs(products.mean().item()) * products.numel() ** 0.5 < 4.5


@pytest.mark.parametrize("shape", [(7,), (4, 6, 5)])
def test_rows_of_a_part_have_the_masks_that_they_have_in_the_whole_batch(shape):
    rows = torch.tensor([5, 63, 0, 17])
    whole = keep_mask((64, *shape), 0.5, seed_tensor(9), 3)
    part = keep_mask((4, *shape), 0.5, seed_of_rows(9, rows), 3)
    torch.testing.assert_close(part, whole[rows], rtol=0, atol=0)
    assert (part != whole[:4]).any()


# The layer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.3, 0.9])
def test_expectation_is_kept(probability, dtype):
    output = Dropout(probability, 0)(torch.ones(64, 4096, dtype=dtype), SEED)
    assert output.dtype == dtype
    kept = output[output != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - probability)), rtol=0, atol=0)
    error = (probability / (1 - probability) / output.numel()) ** 0.5 + (2**-9 if dtype == torch.bfloat16 else 0)
    assert output.double().mean().item() == pytest.approx(1, abs=4.5 * error)


def test_gradient_is_scaled_where_the_entry_is_kept_and_zero_elsewhere():
    x = torch.linspace(-1, 1, 60).reshape(3, 20).requires_grad_()
    Dropout(0.4, 1)(x, SEED).sum().backward()
    torch.testing.assert_close(x.grad, keep_mask((3, 20), 0.4, SEED, 1) / 0.6)


@pytest.mark.parametrize(("probability", "seed"), [(0.0, SEED), (0.5, None)])
def test_without_probability_or_seed_the_input_itself_comes_back_and_nothing_is_computed(
    probability, seed, monkeypatch
):
    monkeypatch.delattr(module_of_dropout, "keep_mask")
    x = torch.ones(2, 3)
    assert Dropout(probability, 0)(x, seed) is x


def test_layer_has_no_mode_and_no_weights():
    layer, x = Dropout(0.5, 0), torch.ones(4, 50)
    torch.testing.assert_close(layer.eval()(x, SEED), layer.train()(x, SEED), rtol=0, atol=0)
    assert len(layer.state_dict()) == len(list(layer.parameters())) == len(list(layer.buffers())) == 0
    assert repr(layer) == "Dropout(probability=0.5, layer=0)"


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_meaningless_probability_is_refused(probability):
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got"):
        Dropout(probability, 0)


# What does not matter ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged_global_rng")
def test_mask_of_a_row_does_not_depend_on_the_batch():
    whole = keep_mask((7, 3, 4, 5), 0.5, SEED, 0)
    for num in range(7):
        torch.testing.assert_close(keep_mask((num, 3, 4, 5), 0.5, SEED, 0), whole[:num], rtol=0, atol=0)


def test_memory_layout_does_not_matter_and_is_kept(rng):
    x = torch.randn(4, 6, 5, 3, generator=rng)
    last = x.contiguous(memory_format=torch.channels_last)
    layer = Dropout(0.5, 0)
    torch.testing.assert_close(layer(last, SEED), layer(x, SEED), rtol=0, atol=0)
    assert layer(last, SEED).is_contiguous(memory_format=torch.channels_last)


def test_autocast_does_not_matter(rng):
    x = torch.randn(4, 6, 5, 3, generator=rng)
    expected = Dropout(0.3, 0)(x, SEED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(Dropout(0.3, 0)(x, SEED), expected, rtol=0, atol=0)
        half = Dropout(0.3, 0)(x.bfloat16(), SEED)
    torch.testing.assert_close(half == 0, expected == 0)


def same_on(device):
    for seed, layer, probability in itertools.product((0, 1, 2**64 - 1), (0, 30), (0.1, 0.5)):
        expected = keep_mask((33, 16, 9, 7), probability, seed_tensor(seed), layer)
        there = keep_mask((33, 16, 9, 7), probability, seed_tensor(seed, device), layer)
        assert there.device.type == device
        torch.testing.assert_close(there.cpu(), expected, rtol=0, atol=0)
        compiled = torch.compile(keep_mask, fullgraph=True) if device == "cuda" else keep_mask
        there = compiled((33, 16, 9, 7), probability, seed_tensor(seed, device), layer)
        torch.testing.assert_close(there.cpu(), expected, rtol=0, atol=0)


@pytest.mark.gpu
def test_masks_of_a_cuda_device_are_those_of_the_cpu(plain_functions):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    same_on("cuda")


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs an Apple GPU")
def test_masks_of_an_apple_gpu_are_those_of_the_cpu():
    same_on("mps")


class Masks(nn.Module):
    """Two layers' masks, in the layout of convolutions and of linear layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Dropout(0.3, 0), Dropout(0.6, 1)

    def forward(self, image, point, seed):
        return self.first(image, seed), self.second(point, seed)


@pytest.mark.parametrize("make_seed", [seed_tensor, lambda seed: seed_of_rows(seed, torch.tensor([9, 0, 7, 3, 64]))])
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_masks_are_the_same_compiled_in_one_graph_for_all_seeds(backend, make_seed, plain_functions, compile_counter):
    network, counter = Masks(), compile_counter(backend)
    compiled = torch.compile(network, fullgraph=True, backend=counter)
    image = torch.ones(5, 6, 7, 3).contiguous(memory_format=torch.channels_last)
    point = torch.ones(5, 33)
    for seed in (0, 1, 2, 5, 2**63, 2**64 - 1):
        outputs = compiled(image, point, make_seed(seed))
        for output, expected in zip(outputs, network(image, point, make_seed(seed)), strict=True):
            torch.testing.assert_close(output == 0, expected == 0)
            torch.testing.assert_close(output, expected)
    assert counter.frame_count == 1
