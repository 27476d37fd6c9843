"""Fronts and places: against the definition, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gcsearch.pareto import front_ranks, places


def dominates(left, right):
    pairs = list(zip(left, right, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def grid(seed, num_objectives, count=40):
    """Points with ties, equal ones among them, and one that diverged."""
    points = np.random.default_rng(seed).integers(0, 6, (count, num_objectives)).astype(float)
    points[3] = math.inf
    return points


@pytest.mark.parametrize("num_objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_fronts_are_those_of_the_definition(num_objectives, seed):
    """Peel off what nothing left dominates, until nothing is left."""
    points = grid(seed, num_objectives).tolist()
    left, front, expected = set(range(40)), 0, {}
    while left:
        best = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        expected |= dict.fromkeys(best, front)
        left, front = left - best, front + 1
    assert front_ranks(points).tolist() == [expected[i] for i in range(40)]


def test_one_objective_is_ranked_by_value():
    assert front_ranks([[3.0], [1.0], [2.0], [1.0]]).tolist() == [2, 0, 1, 0]
    assert places([[3.0], [1.0], [2.0], [1.0]]).tolist() == [3, 0, 2, 0]
    assert front_ranks(np.empty((0, 2))).tolist() == places(np.empty((0, 2))).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_a_point_comes_before_all_that_it_dominates_and_equal_points_share_a_place(seed):
    points = grid(seed, 2).tolist()
    placed = places(points)
    for i, one in enumerate(points):
        for j, other in enumerate(points):
            if dominates(one, other):
                assert placed[i] < placed[j]
            if one == other:
                assert placed[i] == placed[j]
    counts = np.bincount(placed)
    assert all(counts[place] == 0 or counts[:place].sum() == place for place in range(len(counts)))


def test_a_monotone_change_of_an_objective_changes_no_place():
    points = np.random.default_rng(0).normal(size=(60, 3))
    changed = np.stack([np.exp(3 * points[:, 0]), points[:, 1] ** 3 - 7, 1e6 * points[:, 2]], axis=1)
    assert places(points).tolist() == places(changed).tolist()


def test_every_beginning_of_a_front_is_spread_out():
    points = [(float(place), float(16 - place)) for place in range(17)]
    order = np.argsort(places(points)).tolist()
    assert order[:3] == [0, 16, 8]  # the best of the first objective, the farthest from it, the middle
    assert set(order[3:5]) == {4, 12}


def test_what_is_no_number_is_refused():
    for function in (front_ranks, places):
        with pytest.raises(ValueError, match="NaN"):
            function([[math.nan, 1.0]])
