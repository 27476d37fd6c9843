"""Which of several points are best when there is more than one objective."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def front_ranks(losses: ArrayLike) -> NDArray[np.int64]:
    """Number of the front that each point is on: 0 if none dominates it, else 1 + the highest among its dominators.

    A point dominates another if it is nowhere worse and somewhere better. Equal points are on the same front.

    Args:
        losses: (points, objectives), lower is better; infinite for a point that diverged, not NaN.

    Source: Deb et al. 2002 (NSGA-II), section III.A.
    """
    points = np.asarray(losses, dtype=np.float64)
    ranks = np.zeros(len(points), dtype=np.int64)
    if not len(points):
        return ranks
    if np.isnan(points).any():
        raise ValueError("losses must not be NaN")
    no_worse = (points[:, None] <= points[None]).all(axis=2)
    dominates = no_worse & (points[:, None] < points[None]).any(axis=2)
    left = np.ones(len(points), dtype=bool)
    for front in range(len(points)):
        if not left.any():
            break
        best = left & ~dominates[left].any(axis=0)
        ranks[best] = front
        left &= ~best
    return ranks
