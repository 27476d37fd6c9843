"""What mattered: known effects are found, absent ones are not, and a scale or a range of its own changes nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gcsearch.analysis import importance
from gcsearch.analysis.importance import coded, common_rung, importances, interactions, observations, telling_rungs
from gcsearch.analysis.results import StudyResults
from gcsearch.ledger import StudyState
from gcsearch.tuning.importance import PedAnova

HORIZON, RUNG = 90, 30


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(importance, "NUM_RESAMPLES", 25)


def study(trials, stopped=(), diverged=(), goal="minimize", costs=None):
    """Results of trials given as (parameters, score); some end at the first rung, some before it.

    With costs, one a trial, they are the second objective.
    """
    objective = {"metric": "score", "key": "eval/score", "goal": goal, "use": "last"}
    events = [{"event": "study_started", "study": "s", "objective": objective, "horizon_images": HORIZON}]
    if costs is not None:
        cost = {"metric": "train_seconds", "key": "cost/train_seconds", "goal": "minimize", "use": "last"}
        events[0]["objectives"] = [objective, cost]
    for number, (params, score) in enumerate(trials):
        trial = {"trial": f"{number:04d}"}
        events.append({"event": "trial_started", "params": params} | trial)
        rungs = () if number in diverged else (RUNG,) if number in stopped else (RUNG, HORIZON)
        metrics = {"eval/score": score} | ({} if costs is None else {"cost/train_seconds": costs[number]})
        events += [{"event": "result", "images": images, "metrics": metrics} | trial for images in rungs]
        state = "diverged" if number in diverged else "stopped" if number in stopped else "completed"
        events.append({"event": "trial_ended", "state": state} | trial)
    time = {"time": "2026-01-01T00:00:00+00:00"}
    return StudyResults(directory=Path("nowhere"), state=StudyState([event | time for event in events]))


def random_trials(score, num=120):
    random = np.random.default_rng(0)
    trials = []
    for _ in range(num):
        params = {
            "a": float(random.random()),
            "b": float(10 ** random.uniform(-5, -2)),
            "optimizer": str(random.choice(["lion", "adam"])),
            "word": str(random.choice(["x", "y"])),
        }
        low = 1e-5 if params["optimizer"] == "lion" else 1e-3
        params["optimizer.lr"] = float(low * 100 ** random.random())
        trials.append((params, float(score(params) + 0.02 * random.normal())))
    return trials


def shares(results):
    return {(one.key, one.images): one for one in importances(results, PedAnova)}


def test_the_parameter_that_decides_has_most_of_the_importance_with_an_interval_around_it():
    found = shares(study(random_trials(lambda params: (params["a"] - 0.4) ** 2)))
    decides = found["a", HORIZON]
    assert decides.share == max(one.share for one in found.values()) > 0.6
    assert decides.low < decides.share < decides.high <= 1
    assert sum(one.share for one in found.values()) == pytest.approx(1)
    assert found["b", HORIZON].share < 0.2


def test_a_range_of_its_own_under_each_choice_is_compared_within_it():
    def score(params):
        return abs(math.log10(params["optimizer.lr"]) + (4 if params["optimizer"] == "lion" else 2))

    found = shares(study(random_trials(score)))
    assert found["optimizer.lr", HORIZON].share == max(one.share for one in found.values()) > 0.6


def test_importance_does_not_depend_on_the_scale_of_a_parameter_or_of_the_score():
    trials = random_trials(lambda params: params["a"])
    found = shares(study(trials))
    other = [(params | {"a": math.exp(5 * params["a"])}, math.exp(score)) for params, score in trials]
    assert shares(study(other)) == found
    upside_down = study([(params, -score) for params, score in trials], goal="maximize")
    assert shares(upside_down) == found


def test_stopped_trials_count_at_their_rung_and_diverged_ones_as_the_worst():
    results = study([({"a": number}, float(number)) for number in range(30)], stopped=range(10), diverged=[29])
    assert common_rung(results) == RUNG
    assert telling_rungs(results) == [RUNG, HORIZON]
    at_rung = observations(results, RUNG)
    assert len(at_rung) == 30
    assert [one.loss for one in at_rung] == pytest.approx(np.arange(30) / 29)
    assert len(observations(results, HORIZON)) == 20


def test_too_few_trials_have_no_importance():
    results = study([({"a": number}, float(number)) for number in range(14)])
    assert telling_rungs(results) == []
    assert importances(results, PedAnova) == interactions(results) == []


def test_each_objective_has_what_a_study_of_it_alone_would_have():
    trials = random_trials(lambda params: params["a"])
    others = random_trials(lambda params: (params["word"] == "x") * (params["a"] > 0.5))
    both = study(trials, costs=[cost for _, cost in others])
    alone = [study(trials), study(others)]
    for by_one, expected, metric in zip(both.by_objective(), alone, ("score", "train_seconds"), strict=True):
        for found in (importances(by_one, PedAnova), interactions(by_one)):
            assert {one.metric for one in found} == {metric}
        assert [one.share for one in importances(by_one, PedAnova)] == [one.share for one in shares(expected).values()]
        assert [one.p for one in interactions(by_one)] == [one.p for one in interactions(expected)]
    assert importances(both, PedAnova)[0].key == "a"


def test_places_are_ranks_and_few_numbers_are_words():
    trials = random_trials(lambda params: 0.0, num=40)
    few = [(params | {"few": index % 3}, score) for index, (params, score) in enumerate(trials)]
    seen = observations(study(few), HORIZON)
    rows = coded(seen, ["a", "few", "optimizer.lr"])
    assert sorted(row["a"][1] for row in rows) == pytest.approx((np.arange(40) + 0.5) / 40)
    assert {row["few"][1] for row in rows} == {"0", "1", "2"}
    assert len({row["optimizer.lr"][0] for row in rows}) == 2


def test_an_interaction_is_found_where_it_is_and_only_there():
    def score(params):
        return 1.0 if (params["a"] > 0.5) == (params["word"] == "x") else 0.0

    first, *others = interactions(study(random_trials(score)))
    assert {first.first, first.second} == {"a", "word"}
    assert first.share > 0.5
    assert first.p < 1e-6
    assert all(one.p > 0.05 for one in others)


def test_effects_that_add_up_are_no_interaction():
    found = interactions(study(random_trials(lambda params: params["a"] + 3 * (params["word"] == "x"), num=300)))
    pair = next(one for one in found if {one.first, one.second} == {"a", "word"})
    # Ranks of a sum need not add up exactly; what is left is small beside the effects.
    assert pair.share < 0.01


def test_the_test_of_two_balanced_words_is_the_textbook_f_test():
    random = np.random.default_rng(1)
    trials = [({"v": "ab"[i % 2], "w": "cd"[i // 2 % 2]}, float(random.normal() + (i % 4 == 0))) for i in range(40)]
    (found,) = interactions(study(trials))
    ranks = stats.rankdata([score for _, score in trials])
    cell = np.asarray(
        [[ranks[[i for i in range(40) if (i % 2, i // 2 % 2) == (v, w)]] for w in (0, 1)] for v in (0, 1)]
    )
    means = cell.mean(axis=2)
    contrast = means[0, 0] - means[0, 1] - means[1, 0] + means[1, 1]
    between = 10 * contrast**2 / 4
    within = ((cell - means[..., None]) ** 2).sum() / 36
    assert found.share == pytest.approx(between / ((ranks - ranks.mean()) ** 2).sum())
    assert found.p == pytest.approx(stats.f.sf(between / within, 1, 36))
