"""Paired comparisons: equal to independent implementations, and right at the limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from gcsearch.statistics import (
    Margin,
    Paired,
    bootstrap_interval,
    compare,
    paired,
    paired_power,
    resolvable_paired_gap,
    t_test_power,
)

ONE_PERCENT = Margin(value=0.01)


@pytest.fixture
def two():
    random = np.random.default_rng(0)
    shared = random.normal(size=12)
    return 5 + 0.2 * (shared + random.normal(size=12)), 4.8 + 0.2 * (shared + random.normal(size=12))


def test_difference_is_the_paired_t_test_of_scipy(two):
    found = compare(paired(*two), ONE_PERCENT)
    expected = stats.ttest_rel(*two)
    assert found.p_different == pytest.approx(expected.pvalue, rel=1e-10)
    interval = expected.confidence_interval(0.95)
    assert (found.gap.low, found.gap.high) == pytest.approx((interval.low, interval.high), rel=1e-10)
    assert found.gap.mean == pytest.approx((two[0] - two[1]).mean())
    assert found.share.mean == pytest.approx((two[0] - two[1]).mean() / two[1].mean())
    assert found.correlation == pytest.approx(stats.pearsonr(*two).statistic)


def test_equivalence_within_an_absolute_margin_is_that_of_statsmodels(two):
    expected = ttost_paired(*two, -0.4, 0.4)[0]
    assert compare(paired(*two), Margin(value=0.4, is_relative=False)).p_equivalent == pytest.approx(expected, rel=1e-9)


def test_equivalence_within_a_share_tests_the_ratio_of_the_means(two):
    scores, references = two
    upper = stats.ttest_1samp(scores - 1.1 * references, 0, alternative="less").pvalue
    lower = stats.ttest_1samp(scores - 0.9 * references, 0, alternative="greater").pvalue
    assert compare(paired(*two), Margin(value=0.1)).p_equivalent == pytest.approx(max(upper, lower), rel=1e-9)


def test_pairing_saves_the_seeds_that_an_unpaired_comparison_would_need(two):
    scores, references = two
    found = compare(paired(*two), ONE_PERCENT)
    unpaired = (scores.var(ddof=1) + references.var(ddof=1)) / (12 + found.seeds_saved)
    assert unpaired == pytest.approx((scores - references).var(ddof=1) / 12)


@pytest.mark.parametrize(
    ("gaps", "different", "equivalent"),
    [((0.0, 0.0, 0.0), 1.0, 0.0), ((0.5, 0.5, 0.5), 0.0, 1.0), ((0.001,) * 3, 0.0, 0.0), ((0.5,), 1.0, 1.0)],
    ids=["identical", "always the same gap", "always a small gap", "one seed"],
)
def test_without_spread_the_limits_hold(gaps, different, equivalent):
    found = compare(Paired(gaps=gaps, references=(1.0,) * len(gaps)), ONE_PERCENT)
    assert (found.p_different, found.p_equivalent) == (different, equivalent)


def test_a_share_of_a_mean_that_is_not_positive_means_nothing():
    found = compare(Paired(gaps=(0.1, 0.2, 0.1), references=(-1.0, 0.2, 0.3)), ONE_PERCENT)
    assert found.share is None


def test_bootstrap_needs_five_pairs_and_lies_about_the_mean(two):
    pairs = paired(*two)
    low, high = bootstrap_interval(pairs)
    assert low < compare(pairs, ONE_PERCENT).gap.mean < high
    assert bootstrap_interval(pairs.first(4)) is None
    assert bootstrap_interval(Paired(gaps=(1.0,) * 6, references=(1.0,) * 6)) is None


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_margin_must_be_positive(value):
    with pytest.raises(ValueError, match="equivalence must be > 0"):
        Margin(value=value, is_relative=False)


@pytest.mark.parametrize(("num", "correlation"), [(5, 0.5), (3, 0.0), (8, 0.9)])
def test_power_is_that_of_simulated_pairs(num, correlation):
    random, gap, noise = np.random.default_rng(1), 0.03, 0.013
    shared = random.normal(size=(20_000, num)) * math.sqrt(correlation)
    one, other = (shared + random.normal(size=shared.shape) * math.sqrt(1 - correlation) for _ in range(2))
    p_values = stats.ttest_1samp(gap + noise * (one - other), 0, axis=1).pvalue
    assert paired_power(gap, noise, num, correlation) == pytest.approx((p_values < 0.05).mean(), abs=0.012)


def test_five_paired_seeds_see_three_percent_at_usual_noise():
    assert paired_power(0.03, 0.013, 5, 0.5) >= 0.9
    assert paired_power(0.03, 0.013, 5, 0.5) > t_test_power(0.03, 0.013, 5)
    assert paired_power(resolvable_paired_gap(0.013, 5, 0.5), 0.013, 5, 0.5) == pytest.approx(0.8)
