"""Verdicts: the error rate that is stated is kept, at one look and at several."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from gcsearch.statistics import Margin, Paired, compare, judge, paired, paired_power, spending

MARGIN = Margin(value=0.013)


def family(random, gaps, num, *, noise=0.013, correlation=0.5):
    """Contrasts with true gaps against one shared reference, all with a mean of about 1."""
    seed = random.normal(size=num) * math.sqrt(correlation)

    def scores(mean):
        return mean + noise * (seed + random.normal(size=num) * math.sqrt(1 - correlation))

    reference = scores(1.0)
    return {f"arm{index}": paired(scores(1.0 + gap), reference) for index, gap in enumerate(gaps)}


def test_one_look_is_holm_s_procedure():
    pairs = family(np.random.default_rng(3), [0.0, -0.05, 0.05, 0.02], 6)
    found = judge(pairs, MARGIN, [6])
    p_values = [compare(one, MARGIN).p_different for one in pairs.values()]
    adjusted = multipletests(p_values, method="holm")[1]
    assert [one.p_adjusted for one in found.values()] == pytest.approx(adjusted)
    words = ["better" if gap < 0 else "worse" for gap in (compare(one, MARGIN).gap.mean for one in pairs.values())]
    for one, p_value, word in zip(found.values(), adjusted, words, strict=True):
        assert (one.verdict == word) == (p_value <= 0.05)
    assert [one.verdict for one in found.values()][1:3] == ["better", "worse"]


@pytest.mark.parametrize("looks", [[5], [3, 6, 10], [2, 10]], ids=str)
def test_without_any_difference_false_claims_of_one_are_rare(looks):
    """An A/A test. Of 300 families, 15 may have a false claim, give or take three standard deviations of 3.8."""
    random = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        found = judge(family(random, [0.0] * 4, looks[-1]), MARGIN, looks)
        false += any(one.verdict in ("better", "worse") for one in found.values())
    assert false <= 15 + 3 * 3.8


@pytest.mark.parametrize("num_contrasts", [1, 5])
def test_three_percent_are_found_on_five_pairs_as_often_as_the_formula_says(num_contrasts):
    """At a noise of 1.3 % and a correlation of 0.5; of several contrasts, the one with a gap against equal arms."""
    random, num = np.random.default_rng(0), 200
    gaps = [0.03] + [0.0] * (num_contrasts - 1)
    found = [judge(family(random, gaps, 5), MARGIN, [5])["arm0"].verdict == "worse" for _ in range(num)]
    power = paired_power(0.03, 0.013, 5, 0.5, alpha=0.05 / num_contrasts)
    assert sum(found) / num == pytest.approx(power, abs=3 * math.sqrt(power * (1 - power) / num))
    assert (power >= 0.9) == (num_contrasts == 1)


def test_at_the_edge_of_the_margin_false_claims_of_equivalence_are_rare():
    random = np.random.default_rng(0)
    looks = [5, 8, 10]
    false = sum(
        any(one.verdict == "equivalent" for one in judge(family(random, [0.013] * 3, 10), MARGIN, looks).values())
        for _ in range(300)
    )
    assert false <= 15 + 3 * 3.8


def test_more_looks_decide_more_and_never_on_later_seeds():
    random = np.random.default_rng(0)
    early, late = [], []
    for _ in range(100):
        pairs = family(random, [0.02, 0.0, -0.02], 10)
        one, more = judge(pairs, MARGIN, [5]), judge(pairs, MARGIN, [5, 7, 9, 10])
        early += [judgement.verdict != "inconclusive" for judgement in one.values()]
        late += [judgement.verdict != "inconclusive" for judgement in more.values()]
        for name, judgement in more.items():
            if judgement.look is not None:
                assert judgement.comparison == compare(pairs[name].first(judgement.look), MARGIN)
    assert sum(late) > sum(early)


def test_small_gaps_are_equivalent_once_the_seeds_tell():
    pairs = family(np.random.default_rng(0), [0.001], 40, noise=0.005)
    assert judge(pairs, MARGIN, [40])["arm0"].verdict == "equivalent"


def test_what_is_missing_counts_in_the_family_and_is_judged_when_it_is_there():
    pairs = family(np.random.default_rng(0), [0.05], 5)
    alone = judge(pairs, MARGIN, [5])["arm0"].p_adjusted
    missing = Paired(gaps=(), references=())
    found = judge(pairs | {"a": missing, "b": Paired(gaps=(0.1, 0.1), references=(1.0, 1.0))}, MARGIN, [5])
    assert found["arm0"].p_adjusted == pytest.approx(3 * alone)
    assert "a" not in found
    assert (found["b"].verdict, found["b"].look) == ("inconclusive", None)


def test_error_rates_of_all_looks_add_up():
    assert spending([5]) == [0.05]
    assert spending([5, 7, 10]) == pytest.approx([0.025, 0.01, 0.015])
