"""Whether early rungs rank as the last one: against scipy, and against what is true when nothing is stopped."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gcsearch.analysis.rank_fidelity import rank_fidelities, rank_fidelity, weighted_tau
from gcsearch.analysis.results import StudyResults
from gcsearch.ledger import StudyState

RUNGS = (64_000, 128_000, 192_000, 256_000)


def study(
    curves,
    *,
    stopped_at=None,
    audits=(),
    params=None,
    rules=(64_000,),
    goal="minimize",
    diverged=(),
    within=None,
    recall=None,
):
    """Results of a study with the given curves, one a trial, cut off at the rung of `stopped_at`.

    With curves of recall, it is the second objective.
    """
    time = {"time": "2026-01-01T00:00:00+00:00"}
    objective = {"metric": "fid", "key": "eval/fid", "goal": goal, "use": "last"}
    begin = {"event": "study_started", "study": "s", "objective": objective, "horizon_images": RUNGS[-1]}
    if recall is not None:
        begin["objectives"] = [objective, {"metric": "recall", "key": "eval/recall", "goal": "maximize", "use": "last"}]
    events = [begin | {"stopping_rungs": list(rules), "within": within}]
    for number, curve in enumerate(curves):
        trial, end = f"{number:04d}", (stopped_at or {}).get(number, RUNGS[-1])
        values = {} if params is None else params[number]
        events.append({"event": "trial_started", "trial": trial, "params": values, "audit": number in audits})
        for place, (images, value) in enumerate(zip(RUNGS, curve, strict=True)):
            if images <= end:
                metrics = {"eval/fid": value} | ({} if recall is None else {"eval/recall": recall[number][place]})
                events.append({"event": "result", "trial": trial, "images": images, "metrics": metrics})
        state = "diverged" if number in diverged else "completed" if end == RUNGS[-1] else "stopped"
        events.append({"event": "trial_ended", "trial": trial, "state": state})
    return StudyResults(directory=Path("s"), state=StudyState([event | time for event in events]))


def curves_with(noise, num, seed):
    """Curves whose first rung is the last one plus noise; the rungs between get closer to it."""
    random = np.random.default_rng(seed)
    last, error = random.normal(size=num), random.normal(size=num)
    return np.stack([last + noise * share * error for share in (1.0, 0.3, 0.1, 0.0)], axis=1)


def test_tau_is_kendalls_tau_b_and_with_weights_scipys_weighted_one():
    random = np.random.default_rng(0)
    first, last = random.integers(0, 6, (2, 30)).astype(float)
    ones = np.ones(30)
    assert weighted_tau(first, last, ones, ones) == pytest.approx(stats.kendalltau(first, last).statistic)
    weights = random.uniform(0.5, 3.0, 30)
    expected = stats.weightedtau(first, last, rank=np.arange(30), weigher=lambda rank: weights[rank], additive=False)
    assert weighted_tau(first, last, weights, ones) == pytest.approx(expected.statistic)
    assert weighted_tau([1.0, math.inf, math.inf], [1.0, 2.0, math.inf], ones[:3], ones[:3]) > 0.8
    assert math.isnan(weighted_tau([1.0, 1.0], [1.0, 2.0], ones[:2], ones[:2]))


def test_trials_of_different_groups_are_not_compared():
    first, last = [1.0, 2.0, 11.0, 12.0], [21.0, 22.0, 1.0, 2.0]
    assert weighted_tau(first, last, [1.0] * 4, ["a", "a", "b", "b"]) == 1.0
    assert weighted_tau(first, last, [1.0] * 4, ["a"] * 4) < 0
    curves = [[value, value, value, end] for value, end in zip(first * 2, last * 2, strict=True)]
    params = [{"timesteps": kind} for kind in ["fixed", "fixed", "exponential", "exponential"] * 2]
    inside = rank_fidelity(study(curves, params=params, within="timesteps")).rungs[0]
    assert inside.tau > 0.5 > rank_fidelity(study(curves, params=params)).rungs[0].tau


def test_without_stopping_every_trial_counts_and_the_interval_holds_the_estimate():
    found = rank_fidelity(study(curves_with(1.0, 40, 0)))
    assert [rung.images for rung in found.rungs] == list(RUNGS[:-1])
    assert [rung.tau for rung in found.rungs] == sorted(rung.tau for rung in found.rungs)
    for rung in found.rungs:
        assert rung.low < rung.tau < rung.high
        assert (rung.num_trials, rung.num_stopped, rung.is_unbiased) == (40, 0, True)
    few = rank_fidelity(study(curves_with(1.0, 10, 0))).rungs[0]
    assert few.high - few.low > found.rungs[0].high - found.rungs[0].low
    other = rank_fidelity(study(-curves_with(1.0, 40, 0), goal="maximize"))
    assert [rung.tau for rung in other.rungs] == pytest.approx([rung.tau for rung in found.rungs])


def test_audits_put_right_what_survivors_alone_get_wrong():
    """Over many studies: the truth, what is seen of the best third, and with one trial in five an audit."""
    truth, survivors, corrected = [], [], []
    for seed in range(24):
        curves = curves_with(0.8, 90, seed)
        truth.append(rank_fidelity(study(curves)).rungs[0].tau)
        bad = np.flatnonzero(curves[:, 0] > np.quantile(curves[:, 0], 1 / 3))
        for audits, found in ((set(), survivors), (set(range(0, 90, 5)), corrected)):
            stopped_at = {int(number): RUNGS[0] for number in bad if number not in audits}
            rung = rank_fidelity(study(curves, stopped_at=stopped_at, audits=audits)).rungs[0]
            assert rung.is_unbiased == bool(audits)
            assert rung.num_trials + rung.num_stopped == 90
            found.append(rung.tau)
    error = np.std(np.subtract(corrected, truth)) / math.sqrt(24)
    assert np.mean(survivors) < np.mean(truth) - 0.1
    assert np.mean(corrected) == pytest.approx(np.mean(truth), abs=3 * error + 0.01)


def test_a_rung_that_misleads_is_named_with_the_parameter_and_where_to_begin_instead():
    """Large mu looks bad at the first two rungs and wins at the end."""
    mus = np.linspace(0, 1, 12)
    curves = [[mu, 0.5 + 0.4 * mu, 1 - mu, 1 - mu] for mu in mus]
    params = [{"coupling.mu": mu, "optimizer": "lion" if number % 2 else "adam"} for number, mu in enumerate(mus)]
    found = rank_fidelity(study(curves, params=params, rules=(64_000, 192_000)))
    assert found.rungs[0].misranked == "coupling.mu"
    assert found.advice.startswith("Rung 64k images ranks coupling.mu wrongly (tau -1.00")
    assert found.advice.endswith("raise stopping.min_images to 192k.")
    words = [{"predictor": "ema" if mu > 0.5 else "online"} for mu in mus]
    assert rank_fidelity(study(curves, params=words)).rungs[0].misranked == "predictor"
    assert rank_fidelity(study(curves, params=params, rules=())).advice == "A stopping rule could begin at 192k images."


def test_a_low_tau_of_survivors_alone_settles_nothing_and_few_trials_say_nothing():
    curves = curves_with(3.0, 30, 1)
    stopped = {int(number): RUNGS[0] for number in np.argsort(curves[:, 0])[8:]}
    assert "survivors only" in rank_fidelity(study(curves, stopped_at=stopped)).advice
    assert "can be trusted" in rank_fidelity(study(curves_with(0.1, 20, 0))).advice
    few = rank_fidelity(study(curves_with(0.1, 5, 0)))
    assert few.rungs == ()
    assert "5 full-length trials are too few" in few.advice


def test_a_diverged_trial_is_the_worst_at_the_end():
    curves = curves_with(0.0, 8, 0)
    curves[np.argmin(curves[:, 0]), -1] = -9.0
    best = int(np.argmin(curves[:, 0]))
    whole = rank_fidelity(study(curves)).rungs[0]
    lost = rank_fidelity(study(curves, stopped_at={best: RUNGS[0]}, diverged={best})).rungs[0]
    assert lost.num_trials == 8
    assert lost.tau == pytest.approx(whole.tau - 2 * 7 / 28)


def test_each_objective_is_ranked_as_in_a_study_of_its_own():
    fid, recall = curves_with(0.2, 20, 0), curves_with(2.0, 20, 1)
    both = rank_fidelities(study(fid, recall=recall))
    assert [one.metric for one in both] == ["fid", "recall"]
    assert both[0].rungs == rank_fidelity(study(fid)).rungs
    assert both[1].rungs == rank_fidelity(study(recall, goal="maximize")).rungs
    assert both[0].rungs[0].tau > 0.7 > 0.5 > both[1].rungs[0].tau


def test_an_audit_stands_for_stopped_trials_only_if_its_place_on_the_fronts_would_have_stopped_it():
    """Trial 9 is an audit and the worst in the first objective; in both it is only if it is in the second too."""
    fid = np.linspace(0, 1, 10)[:, None] + np.zeros(4)
    stopped = {8: RUNGS[0]}
    assert rank_fidelity(study(fid, audits={9}, stopped_at=stopped)).is_unbiased
    for last, is_unbiased in ((2.0, False), (-2.0, True)):
        recall = np.append(np.linspace(0, 1, 9), last)[:, None] + np.zeros(4)
        for found in rank_fidelities(study(fid, audits={9}, stopped_at=stopped, recall=recall)):
            assert found.is_unbiased == is_unbiased
