"""Stopping rules: decisions as a pure function of the rung table."""

from __future__ import annotations

import math
from itertools import permutations

import pytest

from gcsearch.tuning.stopping import ASHA, Hyperband, Median, NoStopping, stoppings

HORIZON = 2700


def asha(**fields):
    return ASHA(**{"min_images": 100, "factor": 3, "variant": "stopping"} | fields)


def decide(score, others, images=100, rule=None):
    table = {images: {f"{number:04d}": other for number, other in enumerate(others)}}
    return (rule or asha()).decide("me", images, score, table, HORIZON)


@pytest.mark.parametrize(
    ("min_images", "factor", "horizon", "rungs"),
    [
        (100, 3, 2700, (100, 300, 900)),
        (100, 3, 2701, (100, 300, 900, 2700)),
        (512, 2, 2048, (512, 1024)),
        (32_000, 3, 288_000, (32_000, 96_000)),
        (100, 4, 100, ()),
    ],
)
def test_rungs_are_powers_of_the_factor_below_the_horizon(min_images, factor, horizon, rungs):
    assert ASHA(min_images=min_images, factor=factor).rungs(horizon) == rungs


@pytest.mark.parametrize("score", [0.0, 1e9, math.inf, -math.inf])
def test_the_first_at_a_rung_goes_on_whatever_its_score(score):
    assert not decide(score, []).stop
    assert not asha().decide("me", 100, score, {300: {"0000": -5.0}}, HORIZON).stop


def test_its_own_entry_in_the_table_does_not_count_as_another_trial():
    assert not asha().decide("me", 100, 7.0, {100: {"me": 7.0}}, HORIZON).stop
    assert not asha().decide("me", 100, 7.0, {100: {"me": 1.0}}, HORIZON).stop


@pytest.mark.parametrize("count", range(1, 13))
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_best_share_goes_on_and_at_least_one(count, factor):
    kept = max(1, count // factor)
    for rank in range(count):
        others = [float(value) for value in range(count) if value != rank]
        decision = decide(float(rank), others, rule=asha(factor=factor))
        assert decision.stop == (rank >= kept)
        if decision.stop:
            assert decision.reason == f"rank {rank + 1} of {count} at 100 images, the best {kept} went on"
        else:
            assert decision.reason is None


def test_an_equal_score_is_not_better():
    assert not decide(1.0, [1.0, 1.0, 1.0]).stop
    assert decide(1.0, [0.5, 1.0, 1.0]).stop


@pytest.mark.parametrize("images", [1, 99, 101, 200, 301, 2700, 8100])
def test_between_rungs_and_at_the_horizon_nothing_stops(images):
    assert not decide(1e9, [0.0] * 20, images=images).stop


def test_diverged_trials_count_as_worst():
    assert not decide(5.0, [math.inf] * 5).stop
    assert decide(5.0, [1.0, math.inf]).stop
    assert not decide(5.0, [1.0, *[math.inf] * 4]).stop  # second of six, the best two go on
    assert decide(math.inf, [1.0, 2.0]).stop


def test_nan_is_never_better_than_anything_and_never_passes():
    assert decide(math.nan, [1.0, 2.0]).stop
    assert not decide(5.0, [math.nan] * 5).stop
    for score in (0.5, 1.5, 2.5):
        expected = decide(score, [1.0, 2.0, math.inf])
        assert decide(score, [1.0, 2.0, math.nan]) == expected


def test_the_order_of_the_table_does_not_matter():
    scores = {"0000": 3.0, "0001": 1.0, "0002": math.inf, "0003": 2.0}
    for score in (0.0, 1.5, 2.5, 9.0):
        decisions = {
            asha().decide("me", 100, score, {100: {name: scores[name] for name in order}}, HORIZON)
            for order in permutations(scores)
        }
        assert len(decisions) == 1


def test_other_rungs_do_not_matter():
    table = {100: {"0000": 1.0}, 300: {"0000": 9.0, "0001": 0.0, "0002": 0.1}}
    assert asha().decide("me", 100, 2.0, table, HORIZON) == asha().decide("me", 100, 2.0, {100: table[100]}, HORIZON)


@pytest.mark.parametrize("name", list(stoppings))
def test_a_decision_is_a_pure_function_that_leaves_its_table_alone(name):
    rule = stoppings[name](**{"min_images": 100} if name != "none" else {})
    table = {100: {"0000": 1.0, "0001": 2.0}}
    first = rule.decide("0007", 100, 3.0, table, HORIZON)
    assert rule.decide("0007", 100, 3.0, table, HORIZON) == first
    assert table == {100: {"0000": 1.0, "0001": 2.0}}


def test_none_never_stops_and_has_no_rungs():
    assert NoStopping().rungs(HORIZON) == ()
    assert not decide(1e9, [0.0] * 50, rule=NoStopping()).stop


def test_no_more_than_the_share_goes_on_unless_it_is_the_best_of_all():
    column = {f"{number:04d}": float(number) for number in range(9)}
    above = {"0006": 0.0, "0007": 0.0, "0008": 0.0, "0005": 0.0}
    assert not asha().decide("me", 100, 1.5, {100: column}, HORIZON).stop
    assert not asha().decide("me", 100, 1.5, {100: column, 300: dict(list(above.items())[:3])}, HORIZON).stop
    late = asha().decide("me", 100, 1.5, {100: column, 300: above}, HORIZON)
    assert late.stop
    assert late.reason == "rank 3 of 10 at 100 images, 4 had gone on already"
    assert not asha().decide("me", 100, -1.0, {100: column, 300: above}, HORIZON).stop


def test_in_the_promotion_variant_everybody_waits_at_a_rung():
    decision = asha(variant="promotion").decide("me", 300, 0.0, {300: {"0000": 1.0}}, HORIZON)
    assert decision.pause
    assert not decision.stop
    assert decision.reason == "rank 1 of 2 at 300 images, waits for promotion"
    assert not asha(variant="promotion").decide("me", 301, 0.0, {}, HORIZON).pause


@pytest.mark.parametrize(
    ("score", "count", "went_on", "last_call", "resumes"),
    [
        (0.0, 2, 0, False, False),  # nobody is in the best third of two
        (0.0, 2, 0, True, True),
        (1.0, 2, 0, True, False),
        (0.0, 3, 0, False, True),
        (1.0, 3, 0, False, False),
        (1.0, 6, 1, False, True),
        (1.0, 6, 2, False, False),  # the share has gone on
        (0.0, 6, 2, False, True),  # but this one is the best of all
    ],
)
def test_promotion_by_hand(score, count, went_on, last_call, resumes):
    column = {f"{number:04d}": float(number) for number in range(count)}
    assert asha(variant="promotion").resumes(score, column, went_on, is_last_call=last_call) == resumes
    assert not asha().resumes(score, column, went_on, is_last_call=last_call)


def test_hyperband_brackets_by_hand():
    """Rungs 100, 300, 900 of 2700: s_max = 3, n_s = ceil(4 / (s + 1) 3^s) = 27, 12, 6, 4."""
    rule = Hyperband(min_images=100, factor=3)
    assert rule.sizes(HORIZON) == (27, 12, 6, 4)
    brackets = [rule.bracket(f"{number:04d}", HORIZON) for number in range(98)]
    assert [brackets[:49].count(bracket) for bracket in range(4)] == [27, 12, 6, 4]
    assert brackets[:49] == brackets[49:]
    assert set(brackets[:10]) == {0, 1, 2, 3}


def test_hyperband_stops_inside_a_bracket_and_from_its_first_rung_on():
    rule = Hyperband(min_images=100, factor=3)
    trials = {bracket: [] for bracket in range(4)}
    for number in range(98):
        trials[rule.bracket(f"{number:04d}", HORIZON)].append(f"{number:04d}")
    good = {trial: 0.0 for names in trials.values() for trial in names}
    for bracket, (mine, *same) in trials.items():
        for rung, images in enumerate((100, 300, 900)):
            others = {trial: score for trial, score in good.items() if trial not in same}
            assert not rule.decide(mine, images, 1.0, {images: others}, HORIZON).stop  # alone in its bracket
            assert rule.decide(mine, images, 1.0, {images: good}, HORIZON).stop == (rung >= bracket)


def test_median_by_hand():
    rule = Median(min_images=100, min_trials=3)
    table = {100: {"0": 4.0, "1": 2.0, "2": 9.0, "me": 5.0}, 200: {"0": 2.0, "1": 1.0, "2": 7.0}}
    # running averages up to 200 are 3, 1.5 and 8; their median is 3
    assert rule.decide("me", 200, 3.1, table, HORIZON).stop
    assert not rule.decide("me", 200, 3.0, table, HORIZON).stop
    assert not rule.decide("me", 200, 3.1, table | {100: table[100] | {"me": 2.9}}, HORIZON).stop  # its best so far
    assert not rule.decide("me", 150, 9.0, table, HORIZON).stop
    assert not Median(min_images=100, min_trials=4).decide("me", 200, 9.0, table, HORIZON).stop
    assert rule.rungs(450) == (100, 200, 300, 400)


@pytest.mark.parametrize("bad", [{"min_images": 0}, {"factor": 1}, {"audit": 1.5}, {"grace": 1.0}])
def test_meaningless_fields_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        asha(**bad)


def test_a_trial_that_only_equals_the_best_does_not_go_beyond_the_share():
    column = {"0000": 1.0, "0001": 1.0, "0002": 2.0, "0003": 3.0}  # 0000 went on, 0001 is as good
    rule = asha(variant="promotion")
    assert not rule.resumes(1.0, column, 1, is_last_call=False)
    assert rule.resumes(0.5, column | {"0001": 0.5}, 1, is_last_call=False)
    assert rule.resumes(1.0, column | {"0004": 4.0, "0005": 5.0}, 1, is_last_call=False)
