"""Who wins among finalists: the mean over fresh seeds, ties to the cheaper, never a recipe that diverged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gcsearch.errors import ScoreError
from gcsearch.ledger import StudyState
from gcsearch.selection import select
from gcsearch.statistics import resolvable_gap, t_interval, t_test_power, tie_margin

SEEDS = [1, 2, 3]
IDENTITY = (
    "metric=fid | extractor=digits@030a71db | reference=digits@b41ca9fd3354 x1797 | num_samples={} | "
    "sampler=one_step | quantisation=clip_round_uint8"
)


def study(scores, seconds=None, goal="minimize", candidates=None, num_samples=(64, 64)):
    """State of a study whose finalists had the given scores; None has no score yet, NaN diverged."""
    time = {"time": "2026-01-01T00:00:00+00:00"}
    objective = {"metric": "fid", "key": "eval/fid", "goal": goal, "use": "last"}
    events = [{"event": "study_started", "study": "s", "objective": objective}]
    events.append({"event": "trial_started", "trial": "0000", "kind": "trial"})
    events.append({"event": "result", "trial": "0000", "images": 10, "metrics": {"eval/fid": 0.1}})
    events.append({"event": "trial_ended", "trial": "0000", "state": "completed"})
    candidates = list(scores) if candidates is None else candidates
    events.append({"event": "finalists_started", "candidates": candidates, "seeds": SEEDS})
    for number, (candidate, values) in enumerate(scores.items()):
        for seed, value in zip(SEEDS, values, strict=False):
            trial = f"{candidate}-s{seed}"
            events.append(
                {"event": "trial_started", "trial": trial, "kind": "finalist", "candidate": candidate, "seed": seed}
            )
            if value is None:
                continue
            if not math.isnan(value):
                metrics = {"eval/fid": value, "cost/train_seconds": (seconds or {}).get(candidate, 10.0)}
                identity = {"eval/fid": IDENTITY.format(num_samples[number % 2])}
                events.append(
                    {"event": "result", "trial": trial, "images": 10, "metrics": metrics, "identities": identity}
                )
            state = "diverged" if math.isnan(value) else "completed"
            events.append({"event": "trial_ended", "trial": trial, "state": state})
    return StudyState([event | time for event in events])


def test_the_mean_over_fresh_seeds_decides_and_not_the_luckiest_training():
    selection = select(study({"0004": [1.0, 3.1, 3.2], "0002": [2.0, 2.01, 2.02]}))
    assert selection.winner.candidate == "0002"
    assert selection.weights.trial == "0002-s1"
    assert selection.winner.interval == t_interval([2.0, 2.01, 2.02])
    assert [recipe.candidate for recipe in selection.recipes] == ["0002", "0004"]
    assert selection.is_final


def test_a_tie_within_noise_goes_to_the_cheaper_and_a_gap_beyond_noise_does_not():
    scores = {"0000": [2.0, 2.1, 2.2], "0001": [2.05, 2.15, 2.25], "0002": [4.0, 4.1, 4.2]}
    cheap = {"0000": 100.0, "0001": 80.0, "0002": 1.0}
    assert select(study(scores, cheap)).winner.candidate == "0001"
    assert select(study(scores, cheap)).ties == ("0000", "0001")
    same = {"0000": 100.0, "0001": 95.0, "0002": 1.0}  # a clock's own noise
    assert select(study(scores, same)).winner.candidate == "0000"


def test_a_score_to_be_maximized_wins_the_other_way():
    selection = select(study({"0000": [2.0, 2.1, 2.2], "0001": [3.0, 3.1, 3.2]}, goal="maximize"))
    assert (selection.winner.candidate, selection.weights.trial) == ("0001", "0001-s3")


def test_a_recipe_that_diverged_on_a_seed_cannot_win():
    selection = select(study({"0000": [1.0, math.nan, 1.0], "0001": [3.0, 3.1, 3.2]}))
    assert selection.winner.candidate == "0001"
    assert selection.recipes[-1].interval is None
    assert select(study({"0000": [1.0, math.nan, 1.0]})).winner is None


def test_recipes_without_all_their_scores_wait():
    selection = select(study({"0000": [1.0, 1.0, None], "0001": [3.0, 3.1, 3.2]}))
    assert selection.winner.candidate == "0001"
    assert not selection.is_final
    planned = select(study({"0001": [3.0, 3.1, 3.2]}, candidates=["0001", "0002"]))
    assert not planned.is_final
    assert select(StudyState()) is None


def test_finalists_stay_out_of_the_searchs_ranking():
    state = study({"0000": [0.01, 0.01, 0.01]})
    assert [record.trial for record in state.ranking("eval/fid", lower_is_better=True)] == ["0000"]


def test_scores_of_different_identity_are_never_compared():
    with pytest.raises(ScoreError, match="num_samples"):
        select(study({"0000": [1.0, 1.0, 1.0], "0001": [1.0, 1.0, 1.0]}, num_samples=(64, 128)))


def test_the_margin_of_a_tie_is_the_least_gap_that_the_pooled_t_test_rejects():
    """For two groups it is the textbook test, which scipy has."""
    first = np.array([2.0, 2.3, 2.1, 2.6])
    margin = tie_margin([first, first + 1.0])
    for gap, is_beyond in ((0.99 * margin, False), (1.01 * margin, True)):
        assert (stats.ttest_ind(first, first + gap).pvalue < 0.05) == is_beyond


def test_power_is_what_repeated_tests_show():
    draws = np.random.default_rng(0).standard_normal((2, 4000, 5))
    found = stats.ttest_ind(draws[0], draws[1] + 1.5, axis=1).pvalue < 0.05
    assert t_test_power(1.5, 1.0, 5) == pytest.approx(found.mean(), abs=0.025)
    assert t_test_power(0.0, 1.0, 3) == pytest.approx(0.05)


@pytest.mark.parametrize("num", [2, 3, 5, 10, 50])
def test_the_resolvable_gap_has_the_power_it_promises_and_scales_with_the_noise(num):
    gap = resolvable_gap(2.0, num)
    assert t_test_power(gap, 2.0, num) == pytest.approx(0.8, abs=1e-6)
    assert gap == pytest.approx(2 * resolvable_gap(1.0, num))
