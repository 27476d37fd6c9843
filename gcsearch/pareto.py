"""Which of several points are best when there is more than one objective: fronts, and an order of all points."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]


def front_ranks(losses: ArrayLike) -> Ints:
    """Number of the front that each point is on: 0 if no other dominates it, else 1 + the highest of its dominators'.

    A point dominates another if it is nowhere worse and somewhere better. Equal points are on the same front.

    Args:
        losses: (points, objectives), lower is better; infinite where a point diverged.

    Raises:
        ValueError: Some loss is NaN.

    Source: Deb et al. 2002 (NSGA-II), section III.A.
    """
    points = _checked(losses)
    ranks = np.zeros(len(points), dtype=np.int64)
    if not len(points):
        return ranks
    no_worse = np.all(points[:, None] <= points[None], axis=2)
    dominates: NDArray[np.bool_] = no_worse & np.any(points[:, None] < points[None], axis=2)
    left = np.ones(len(points), dtype=bool)
    front = 0
    while left.any():
        best = left & ~dominates[left].any(axis=0)
        ranks[best] = front
        left &= ~best
        front += 1
    return ranks


def places(losses: ArrayLike) -> Ints:
    """Place of each point, from 0: first by front; inside a front so that every beginning of the order is spread out.

    A front begins with its best point in the first objective; next comes whatever lies farthest from all those before
    it. Distances are Euclidean between the points' ranks in each objective, so no unit, outlier or monotone change of
    an objective matters. Equal points share a place, and then the next place is as far behind as there are of them.

    Args:
        losses: (points, objectives), lower is better; infinite where a point diverged.

    Source: fronts as in Deb et al. 2002; farthest points first inside a front as in Schmucker et al. 2021
        (arXiv:2106.12639), who found it better for successive halving than crowding distances. Ranks in place of values
        are ours.
    """
    points = _checked(losses)
    placed = np.zeros(len(points), dtype=np.int64)
    if not len(points):
        return placed
    distinct, owner, counts = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    owner = owner.reshape(-1)
    ranks = np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in distinct.T], axis=1)
    fronts = front_ranks(distinct)
    order: list[int] = []
    for front in range(int(fronts.max()) + 1):
        members = np.flatnonzero(fronts == front)  # by the first objective, then by the next, as `unique` sorts
        order += [int(members[index]) for index in _farthest_first(ranks[members].astype(np.float64))]
    before = 0
    for index in order:
        placed[owner == index] = before
        before += int(counts[index])
    return placed


def _farthest_first(points: NDArray[np.float64]) -> list[int]:
    """Indices of points, from the first one on always the farthest from those before; of equals the earliest."""
    order, distance = [0], ((points - points[0]) ** 2).sum(axis=1)
    while len(order) < len(points):
        distance[order[-1]] = -1.0
        order.append(int(np.argmax(distance)))
        distance = np.minimum(distance, ((points - points[order[-1]]) ** 2).sum(axis=1))
    return order


def _checked(losses: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(losses, dtype=np.float64)
    if np.isnan(points).any():
        raise ValueError("losses must not be NaN")
    return points
