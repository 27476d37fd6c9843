"""Dropout whose mask is a pure function of (seed, layer, row in the batch, position in the example).

A mask is integer arithmetic on indices: no generator is read or moved. The same seed gives the same bits on every
device, eager and compiled, in every precision and memory layout. The seed is a tensor, so a compiled network takes a
new one without being compiled again.

Two stages. Every row and every position of an example get a 32-bit word, the high half of a SplitMix64 output. The
word of an entry is the xor of the two, mixed once more by lowbias32; an entry is dropped if its word, as a number of
[-2^31, 2^31), is below (probability - 1/2) 2^32. So the long hash runs on B + d indices, the short one on B d.

The ops are add, multiply, and, xor, right shift and compare on int64 and int32; multiplication wraps.

Sources: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014 (SplitMix64); Chris Wellons,
hash-prospector (lowbias32); Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (random numbers from
counters).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from gcsearch.science.shapes import DropoutSeed, Indices, Mask, Words


def signed(value: int, bits: int) -> int:
    """The integer modulo 2^bits that two's complement stores, in [-2^(bits - 1), 2^(bits - 1))."""
    half = 1 << (bits - 1)
    return (value + half) % (2 * half) - half


STRIDE: Final = signed(0x9E3779B97F4A7C15, 64)
"""What SplitMix64's state grows by: 2^64 over the golden ratio, odd."""

LONG_FACTORS: Final = signed(0xBF58476D1CE4E5B9, 64), signed(0x94D049BB133111EB, 64)
SHORT_FACTORS: Final = signed(0x7FEB352D, 32), signed(0x846CA68B, 32)
"""Multipliers of SplitMix64 and of lowbias32."""


def seed_tensor(seed: int, device: torch.device | str = "cpu") -> DropoutSeed:
    """The lowest 64 bits of `seed` as a tensor on `device`, without waiting for the device."""
    return torch.full((), signed(seed, 64), dtype=torch.int64, device=device)


def seed_of_rows(seed: int, rows: Indices) -> DropoutSeed:
    """Seed for a part of a batch, of shape (1 + B,): the seed, then each example's row in the whole batch.

    The part gets the masks that its rows have when the batch is treated as a whole.
    """
    return torch.cat([seed_tensor(seed, rows.device)[None], rows])


def keep_mask(shape: Sequence[int], probability: float, seed: DropoutSeed, layer: int) -> Mask:
    """Which entries stay: each one with probability 1 - `probability`, independently.

    Args:
        shape: (B, *event). The mask of a row does not depend on B.
        probability: Share of entries to drop, in [0, 1); resolved to 2^-32.
        seed: Seed on the device of the mask; every bit of it counts, and neighbours are unrelated. With a number for
            each row (see `seed_of_rows`), the mask is that of those rows.
        layer: Number of the layer; other layers have unrelated masks.

    Returns:
        Mask of this shape, laid out channels last.
    """
    num, *event = shape
    size = math.prod(event)
    numbers = torch.arange(size + (num if seed.ndim == 0 else 0), dtype=torch.int64, device=seed.device)
    if seed.ndim > 0:
        numbers, seed = torch.cat([numbers, size + seed[1:]]), seed[0]
    words = random_words(seed, layer, numbers)
    positions, rows = words[:size], words[size:]
    # Channels run fastest: a mask in the memory layout of the activations is cheaper to multiply by.
    mixed = rows.view(num, *[1] * len(event)) ^ positions.view(*event[1:], event[0]).movedim(-1, 0)
    # lowbias32 without its first step, a linear bijection of words that are uniform already, and without its last,
    # which leaves the high half as it is. In place: most of the cost is memory.
    mixed *= SHORT_FACTORS[0]
    mixed ^= shifted(mixed, 15, 32)
    mixed *= SHORT_FACTORS[1]
    return mixed >= math.floor(probability * 2**32) - 2**31


def random_words(seed: DropoutSeed, layer: int, numbers: Indices) -> Words:
    """Words number `numbers`, 0-based, of a stretch of SplitMix64's sequence from seed 0; of each the high 32 bits.

    The stretch starts after number (`seed` xor `layer_key`) STRIDE. Stretches of neighbouring seeds are far apart,
    since multiples of the golden ratio are; those of layers are far apart because their keys are random.
    """
    start = (seed ^ layer_key(layer)) * STRIDE
    # The start is added before the product: Inductor takes an index times a constant for an exact integer.
    state = (numbers + (start + 1)) * STRIDE
    state = (state ^ shifted(state, 30, 64)) * LONG_FACTORS[0]
    state = (state ^ shifted(state, 27, 64)) * LONG_FACTORS[1]
    return ((state ^ shifted(state, 31, 64)) >> 32).to(torch.int32)


def layer_key(layer: int) -> int:
    """Output number `layer` of SplitMix64 with seed 0: keys of layers have nothing in common."""
    state = (layer + 1) * STRIDE % 2**64
    state = (state ^ state >> 30) * LONG_FACTORS[0] % 2**64
    state = (state ^ state >> 27) * LONG_FACTORS[1] % 2**64
    return signed(state ^ state >> 31, 64)


def shifted(words: Tensor, shift: int, bits: int) -> Tensor:
    """Logical right shift of signed integers: PyTorch's repeats the sign."""
    return (words >> shift) & ((1 << (bits - shift)) - 1)


class Dropout(nn.Module):
    """Zeroes entries and scales the rest by 1 / (1 - probability), so that the expectation stays.

    Has no weights and no mode: it acts if it is called with a seed. Without probability it costs nothing.

    Args:
        probability: Probability of zeroing an entry, in [0, 1).
        layer: Number of this layer in its network. Every layer needs another one: layers of one number and one shape
            drop the same entries.
    """

    def __init__(self, probability: float, layer: int) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout must be in [0, 1), got {probability}")
        self.probability = probability
        self.layer = layer

    def forward(self, x: Tensor, seed: DropoutSeed | None) -> Tensor:
        """Tensor of the shape and type of `x`, (B, *event); `x` itself without a seed."""
        if seed is None or self.probability == 0:
            return x
        keep = keep_mask(x.shape, self.probability, seed, self.layer)
        # bf16 would round the factor, by the same amount for every entry.
        precise = torch.promote_types(x.dtype, torch.float32)
        return (x * (keep.to(precise) / (1 - self.probability))).to(x.dtype)

    def extra_repr(self) -> str:
        return f"probability={self.probability}, layer={self.layer}"
