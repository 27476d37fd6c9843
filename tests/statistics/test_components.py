"""Components of variance: a closed form, what they estimate, and how often intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from gcsearch.statistics import crossed_components, spread

TRUE = {"training": 4.0, "sampling": 1.0, "both": 0.5}


def tables(num, *, trainings=5, draws=5, seed=0, **variances):
    random = np.random.default_rng(seed)
    size = {"training": (num, trainings, 1), "sampling": (num, 1, draws), "both": (num, trainings, draws)}
    return 50 + sum(random.normal(size=size[name]) * variance**0.5 for name, variance in variances.items())


def test_a_table_by_hand():
    # Row means 2, 4; column means 2, 4; rest +-1: MS_T = 2 * 2 / 1, MS_L the same, MS_E = 4 * 1.
    found = crossed_components([[2.0, 2.0], [2.0, 6.0]])
    assert found.mean == 3.0
    assert found.both.value == pytest.approx(4.0)
    assert found.training.value == found.sampling.value == 0.0
    assert found.paired.value == pytest.approx(4 / 2 + 4 / 2)


def test_without_interaction_all_noise_of_a_difference_is_training():
    found = crossed_components([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0], [8.0, 9.0, 10.0]])
    assert found.both.value == pytest.approx(0.0, abs=1e-12)
    assert found.training.value == pytest.approx(np.var([2, 4, 9], ddof=1))
    assert found.sampling.value == pytest.approx(1.0)
    assert found.training_share.value == pytest.approx(1.0)


def test_estimates_are_unbiased():
    found = [crossed_components(table) for table in tables(3000, **TRUE)]
    for name, variance in (TRUE | {"paired": 4.5}).items():
        assert np.mean([getattr(one, name).value for one in found]) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize(
    ("variances", "shape"), [(TRUE, (5, 5)), ({"training": 0.5, "sampling": 0.1, "both": 2.0}, (5, 4)), (TRUE, (3, 8))]
)
def test_intervals_hold_the_truth_in_95_of_100_tables(variances, shape):
    num = 1500
    found = [crossed_components(one) for one in tables(num, trainings=shape[0], draws=shape[1], seed=1, **variances)]
    truth = dict(variances)
    truth["paired"] = truth["training"] + truth["both"]
    truth["training_share"] = truth["training"] / truth["paired"]
    for name, value in truth.items():
        ends = [(getattr(one, name).low, getattr(one, name).high) for one in found]
        assert np.mean([low <= value <= high for low, high in ends]) == pytest.approx(0.95, abs=0.025), name


def test_spread_over_seeds_has_the_interval_of_chi_squared():
    random = np.random.default_rng(2)
    found = [spread(values) for values in random.normal(size=(1500, 5)) * 3]
    assert np.mean([one.low <= 9 <= one.high for one in found]) == pytest.approx(0.95, abs=0.02)
    assert found[0].root(2.0).value == pytest.approx(found[0].value ** 0.5 / 2)
