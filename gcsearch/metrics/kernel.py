"""The cubic kernel of KID, k(x, y) = (x.y / d + 1)^3, in float64: its means over pairs, with bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 256
"""Rows of the kernel matrix at once: for a set of 2,048 they fit into a core's cache, for 50,000 they are 0.1 GB."""

MAP_BLOCK: Final = 1024
"""Examples at once in `mean_map`."""

MAX_MAPPED: Final = 128
"""Most features for which means over pairs come from `mean_map`: a few numbers per triple of features instead of one
per pair of examples. At 64 features and 10,000 against 60,000 examples, that takes a fortieth of the time."""


def mean_map(features: Tensor) -> Tensor | None:
    """Mean over examples of the kernel's explicit map phi, with phi(x) . phi(y) = k(x, y).

    With z = (x / d^(1/2), 1), the kernel is (z . z')^3, the inner product of the third powers of z and z'. Of these
    symmetric tensors, about a third of the entries is kept: those whose first index is the lowest.

    Args:
        features: (N, d).

    Returns:
        About d^3 / 3 numbers; None if there are more than `MAX_MAPPED` features. The inner product of two of these is
        the mean kernel over all pairs of an example of one set and one of the other.
    """
    count, num_features = features.shape
    if num_features > MAX_MAPPED:
        return None
    sums = [torch.zeros(size, size, dtype=torch.float64) for size in range(num_features + 1, 0, -1)]
    for rows in torch.split(features, MAP_BLOCK):
        columns = torch.ones(num_features + 1, len(rows), dtype=torch.float64)
        columns[:-1] = rows.T
        columns[:-1] /= math.sqrt(num_features)
        for index, total in enumerate(sums):
            rest = columns[index:]
            total.addmm_(rest * columns[index], rest.T)
    for total in sums:
        # Of the orders of a triple: the lowest index occurs once (three orders per kept entry), twice (three orders,
        # two entries), or three times.
        total[1:, 1:] *= math.sqrt(3)
        total[0, 1:] *= math.sqrt(1.5)
        total[1:, 0] *= math.sqrt(1.5)
    return torch.cat([total.flatten() for total in sums]).div_(count)


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
    values = features.double()
    squares = torch.einsum("nd,nd->n", values, values)
    return (squares / features.shape[1] + 1) ** 3


def mean_within(features: Tensor, mapped: Tensor | None) -> float:
    """Mean kernel over all pairs of different examples of one set, whose `mean_map` is given if it has one."""
    count = len(features)
    if mapped is not None:
        total = count**2 * float(mapped @ mapped)
    else:
        # Only the part right of each block: the matrix is symmetric.
        features, total = features.double(), 0.0
        for start in range(0, count, BLOCK):
            rows = features[start : start + BLOCK]
            for _, values in blocks(rows, features[start:]):
                own = values[:, : len(rows)].sum()
                total += float(2 * values.sum() - own)
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
