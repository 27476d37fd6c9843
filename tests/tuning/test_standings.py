"""Scores at the rungs, kept up with the ledger, against the same collected from the records each time."""

from __future__ import annotations

import math

import pytest

from gcsearch.ledger import StudyState
from gcsearch.pareto import places
from gcsearch.tuning.replay import METRIC, simulate
from gcsearch.tuning.settings import Objective
from gcsearch.tuning.standings import ScoreTable, Standings

SPACE = {"x": {"min": 0.0, "max": 1.0}, "kind": {"values": ["a", "b"]}}
HORIZON = 900


def events(goals=1):
    def evaluate(params, images):
        score = params["x"] + 10 / images
        score = math.nan if params["x"] > 0.9 and images > 100 else score
        return score if goals == 1 else [score, -params["x"]]

    ledger = simulate(
        SPACE,
        {"sampler": "random"},
        {"name": "asha", "min_images": 100, "within": "kind", "audit": 0.2},
        evaluate,
        goal="minimize" if goals == 1 else ["minimize"] * goals,
        horizon_images=HORIZON,
        every_images=150,
        budget_images=12 * HORIZON,
        num_workers=3,
        seed=4,
    )
    assert any(record.state == "diverged" for record in ledger.trials.values())
    return ledger.events


def collected(state, objectives, rungs, group, images, until, unsettled):
    """The definition, one trial after the other."""
    losses = {}
    for record in state.trials.values():
        if record.params["kind"] != group:
            continue
        result = record.at(images)
        if result is not None and (until is None or result.order <= until):
            if (record.trial, images) not in unsettled:
                losses[record.trial] = tuple(one.loss(result.metrics[one.key]) for one in objectives)
            continue
        is_known = record.state == "diverged" and (until is None or record.ended_order <= until)
        if is_known and record.images < images and images in rungs:
            losses[record.trial] = (math.inf,) * len(objectives)
    if len(objectives) == 1:
        return {trial: one[0] for trial, one in losses.items()}
    share = places(list(losses.values())) / max(1, len(losses))
    return {
        trial: math.inf if math.isinf(one[0]) else float(place)
        for (trial, one), place in zip(losses.items(), share, strict=True)
    }


@pytest.mark.parametrize("goals", [1, 2])
def test_standings_kept_up_with_the_ledger_are_those_collected_anew_after_every_event(goals):
    keys = [METRIC] if goals == 1 else [f"{METRIC}_{index}" for index in range(goals)]
    objectives = tuple(Objective(metric=key) for key in keys)
    rungs = (100, 150, 300, 450, 600, 750, 900)
    unsettled = {("0001", 100), ("0004", 300)}
    state = StudyState()
    standings = Standings(state, objectives, rungs, "kind", lambda record, images: (record.trial, images) in unsettled)
    compared = 0
    for number, event in enumerate(events(goals)):
        state.apply(event)
        for until in (None, number // 2):
            for group in ("a", "b"):
                table = ScoreTable(standings, rungs, group, until)
                for images in (100, 300, 900):
                    expected = collected(state, objectives, rungs, group, images, until, unsettled)
                    assert table.get(images, {}) == expected
                    compared += len(expected)
    assert compared > 1000


def test_a_trial_that_is_trained_again_after_it_diverged_is_not_counted_as_bad():
    def event(event, order, **fields):
        return {"event": event, "time": f"2026-01-01T00:00:{order:02d}+00:00", "trial": "0000", **fields}

    state = StudyState([event("trial_started", 0, kind="trial", params={})])
    standings = Standings(state, (Objective(),), (100, 200), None, lambda record, images: False)
    state.apply(event("trial_ended", 1, state="diverged"))
    assert standings.scores(100, None) == {"0000": math.inf}
    state.apply(event("trial_started", 2, kind="trial", params={}))
    assert standings.scores(100, None) == {}
    state.apply(event("result", 3, images=100, metrics={"eval/fid": 3.0}))
    state.apply(event("trial_ended", 4, state="diverged"))
    assert standings.scores(100, None) == {"0000": 3.0}
    assert standings.scores(200, None) == {"0000": math.inf}
