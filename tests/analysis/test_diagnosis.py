"""Statistics over seeds, by hand and by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gcsearch.analysis.diagnosis import curve, exact_independent, summarize
from gcsearch.statistics import t_interval
from gcsearch.training.diagnosis import Row


def rows_of(quantity, coupling, values, axis="sigma"):
    """Rows from {seed: values along the axis}."""
    return [
        Row(
            quantity=quantity,
            coupling=coupling,
            seed=seed,
            images=100 * (place + 1) if axis == "images" else None,
            sigma=0.5 * (place + 1) if axis == "sigma" else None,
            value=value,
        )
        for seed, along in values.items()
        for place, value in enumerate(along)
    ]


def test_the_interval_is_students(rng):
    values = [1.0, 2.0, 4.0, 8.0]
    interval = t_interval(values)
    # t_{0.975, 3} = 3.1824 from a printed table; s^2 = (2.75^2 + 1.75^2 + 0.25^2 + 4.25^2) / 3
    half = 3.182446 * math.sqrt((7.5625 + 3.0625 + 0.0625 + 18.0625) / 3 / 4)
    assert (interval.mean, interval.num) == (3.75, 4)
    assert (interval.low, interval.high) == pytest.approx((3.75 - half, 3.75 + half), rel=1e-6)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-12)


def test_one_seed_has_no_interval_and_equal_values_have_one_of_no_width():
    assert (t_interval([2.0]).low, t_interval([2.0]).high, t_interval([2.0]).mean) == (None, None, 2.0)
    same = t_interval([3.0, 3.0])
    assert (same.low, same.mean, same.high) == (3.0, 3.0, 3.0)


def test_intervals_cover_the_mean_as_often_as_they_say():
    normal = np.random.default_rng(0).normal(1.0, 2.0, size=(2000, 5))
    intervals = [t_interval(row) for row in normal]
    covered = np.mean([interval.low < 1.0 < interval.high for interval in intervals])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2000))


def test_a_summary_takes_the_mean_over_levels_within_each_seed_and_pairs_seeds():
    independent = {0: [1.0, 3.0], 1: [5.0, 9.0], 2: [2.0, 2.0]}  # means 2, 7, 2
    generator = {2: [1.0, 1.5], 0: [0.5, 2.5], 1: [4.0, 8.5]}  # means by seed 0, 1, 2: 1.5, 6.25, 1.25
    rows = rows_of("transport_cost", "independent", independent) + rows_of("transport_cost", "generator", generator)
    (found,) = summarize(rows)
    assert (found.quantity, found.axis) == ("transport_cost", "sigma")
    assert found.couplings["independent"] == t_interval([2.0, 7.0, 2.0])
    assert found.difference == t_interval([-0.5, -0.75, -0.75])
    assert found.verdict == "lower"  # although the intervals of the two overlap
    assert found.couplings["generator"].high > found.couplings["independent"].low


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [([-1.0, -1.1, -0.9], "lower"), ([1.0, 1.1, 0.9], "higher"), ([1.0, -1.1, 0.9], "unclear"), ([-1.0], None)],
)
def test_the_verdict_says_on_which_side_of_zero_the_interval_lies(differences, verdict):
    rows = rows_of("path_deviation", "independent", {seed: [10.0] for seed in range(3)})
    rows += rows_of("path_deviation", "generator", {seed: [10 + value] for seed, value in enumerate(differences)})
    assert summarize(rows)[0].verdict == verdict


def test_the_training_pairs_distance_and_the_one_by_level_are_two_lines():
    rows = rows_of("ode_distance", "ot", {0: [1.0], 1: [2.0]}, axis="images")
    rows += rows_of("ode_distance", "ot", {0: [5.0], 1: [7.0]})
    found = summarize(rows)
    assert [(entry.axis, entry.couplings["ot"].mean) for entry in found] == [("images", 1.5), ("sigma", 6.0)]
    assert [(entry.difference, entry.verdict) for entry in found] == [(None, None)] * 2


def test_given_weights_have_one_value_without_images():
    rows = [
        Row(quantity="gradient_variance", coupling="ot", seed=seed, images=None, sigma=None, value=value)
        for seed, value in enumerate((1.0, 4.0))
    ]
    assert summarize(rows)[0].couplings["ot"].mean == 2.5
    assert curve(rows, "gradient_variance", "ot", "images") == []


def test_a_curve_has_the_mean_over_seeds_at_every_place_in_order():
    rows = rows_of("gradient_variance", "ot", {1: [4.0, 6.0], 0: [2.0, 1.0]}, axis="images")
    rows += rows_of("gradient_variance", "generator", {0: [9.0]}, axis="images")
    points = curve(rows[::-1], "gradient_variance", "ot", "images")
    assert points == [(100.0, t_interval([4.0, 2.0])), (200.0, t_interval([6.0, 1.0]))]


def test_the_denoisers_error_is_told_where_the_exact_value_is_known():
    learned = rows_of("path_deviation", "independent", {0: [1.0, 2.0], 1: [3.0, 4.0]})
    assert exact_independent(learned) is None
    exact = rows_of("exact_path_deviation", "independent", {0: [1.0, 1.0], 1: [2.0, 2.0]})
    assert exact_independent(learned + exact) == (2.5, 1.5)
    assert len(summarize(learned + exact)) == 1
