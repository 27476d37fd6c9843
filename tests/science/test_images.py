"""Pixel conversions."""

from __future__ import annotations

import torch

from gcsearch.science.images import to_bytes, to_unit_range


def test_every_byte_survives_the_round_trip():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    torch.testing.assert_close(to_bytes(to_unit_range(every)), every, rtol=0, atol=0)


def test_ends_of_the_byte_range_are_the_ends_of_the_unit_range():
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    torch.testing.assert_close(to_unit_range(ends).flatten(), torch.tensor([-1.0, 1.0]), rtol=0, atol=0)


def test_pixels_are_clipped_and_rounded_and_not_truncated():
    levels = torch.tensor([-3.0, -1.0, 0.9 / 127.5 - 1, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1, 1.0, 7.0])
    expected = torch.tensor([0, 0, 1, 100, 101, 255, 255], dtype=torch.uint8)
    torch.testing.assert_close(to_bytes(levels.reshape(1, 1, 1, 7)).flatten(), expected, rtol=0, atol=0)
