"""The cubic kernel of KID, k(x, y) = (x.y / d + 1)^3, in float64 and in blocks, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 2048
"""Rows of the kernel matrix at once: 2,048 x 50,000 values are 0.8 GB."""


def blocks(left: Tensor, right: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the kernel matrix of features (N, d) and (M, d): which rows, and their values (rows, M)."""
    right = right.double()
    for start in range(0, len(left), BLOCK):
        rows = slice(start, min(start + BLOCK, len(left)))
        values = left[rows].double() @ right.T
        # In place, and by products: `pow` takes ten times as long.
        base = values.div_(right.shape[1]).add_(1)
        yield rows, (base * base).mul_(base)


def diagonal(features: Tensor) -> Tensor:
    """k(x, x) of each example, (N,)."""
    squares = features.double().square().sum(dim=1)
    return (squares / features.shape[1] + 1) ** 3


def mean_within(features: Tensor) -> float:
    """Mean kernel over all pairs of different examples of one set."""
    count = len(features)
    # Only the part right of each block: the matrix is symmetric.
    total = 0.0
    for start in range(0, count, BLOCK):
        rows = features[start : start + BLOCK]
        for _, values in blocks(rows, features[start:]):
            own = values[:, : len(rows)]
            total += float(own.sum() + 2 * (values.sum() - own.sum()))
    return (total - float(diagonal(features).sum())) / (count * (count - 1))


def mean_between(left: Tensor, right: Tensor) -> float:
    """Mean kernel over all pairs of an example of one set and one of the other."""
    return sum(float(values.sum()) for _, values in blocks(left, right)) / (len(left) * len(right))


def resampled_means(left: Tensor, right: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """`mean_within` of the left set, and `mean_between` both, for resamples of the left set.

    Pairs of an example with a copy of itself are left out, as pairs of an example with itself are.

    Args:
        left: Features that are resampled, (N, d).
        right: Features that are not, (M, d).
        counts: How often each left example is in each resample, float64, (B, N).

    Returns:
        Two tensors of shape (B,).
    """
    total = counts.sum(dim=1)
    squares = counts.square()
    within = torch.zeros_like(total)
    between = torch.zeros_like(total)
    for rows, values in blocks(left, left):
        within += ((counts[:, rows] @ values) * counts).sum(dim=1)
    for rows, values in blocks(left, right):
        between += counts[:, rows] @ values.mean(dim=1)
    within -= squares @ diagonal(left)
    return within / (total.square() - squares.sum(dim=1)), between / total
