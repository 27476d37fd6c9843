"""The two sides of a pixel: bytes 0..255 in files and metrics, [-1, 1] in networks."""

from __future__ import annotations

import torch

from gcsearch.science.shapes import ByteImages, Images


def to_unit_range(images: ByteImages) -> Images:
    """Bytes 0..255 to float32 in [-1, 1]: x = byte / 127.5 - 1."""
    # In place: on the CPU, fresh memory for each of three temporaries costs more than the arithmetic.
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_bytes(images: Images) -> ByteImages:
    """Images in [-1, 1] to bytes: clipped and rounded, not truncated, so that real images survive the round trip.

    The published code truncates, which darkens generated images by half a level on average.
    """
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
