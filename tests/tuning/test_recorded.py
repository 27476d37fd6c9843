"""Other stopping rules on recorded curves: what they say is what the simulator says, and nothing is made up."""

from __future__ import annotations

import math

import pytest

from gcsearch.errors import ConfigError, StudyError
from gcsearch.ledger import StudyState
from gcsearch.tuning.recorded import as_run, concurrency, parse_stopping, replay
from gcsearch.tuning.replay import simulate

SPACE = {"x": {"min": 0.0, "max": 1.0}, "kind": {"values": ["a", "b"]}}
RULES = {
    "{name: asha, min_images: 100}": {"name": "asha", "min_images": 100},
    "{name: asha, min_images: 100, within: kind, factor: 2}": {
        "name": "asha",
        "min_images": 100,
        "within": "kind",
        "factor": 2,
    },
    "{name: asha, variant: stopping}": {"name": "asha", "min_images": 100, "variant": "stopping"},
    "hyperband": {"name": "hyperband", "min_images": 100},
    "{name: median, min_trials: 3}": {"name": "median", "min_images": 100, "min_trials": 3},
    "none": "none",
}


def curve(params, images):
    """Falls with training at a speed of its own, so that curves cross; some diverge late."""
    if params["x"] > 0.9 and images > 300:
        return math.nan
    return (params["x"] - 0.3) ** 2 + math.exp(-images / (200 if params["kind"] == "a" else 500))


def study(stopping, *, num_workers=1, goal="minimize"):
    """Events of a simulated study of 22 trials that are the same under every rule, with scores at every 100 images."""
    sign = 1 if goal == "minimize" else -1
    return simulate(
        SPACE,
        {"sampler": {"name": "grid", "points": 11}},
        stopping,
        lambda params, images: sign * curve(params, images),
        goal=goal,
        horizon_images=900,
        budget_images=10**9,
        num_workers=num_workers,
        seed=0,
        every_images=100,
    ).events


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_workers", [1, 4])
@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_on_full_curves_a_replay_is_the_study_that_would_have_been(rule, num_workers, goal):
    full = study("none", num_workers=num_workers, goal=goal)
    expected = StudyState(study(RULES[rule], num_workers=num_workers, goal=goal))
    found = replay(full, parse_stopping(rule, StudyState(full)))
    assert concurrency(full) == num_workers
    assert found.is_exact
    assert found.images == sum(record.images for record in expected.trials.values())
    ranking = expected.ranking("eval/score", lower_is_better=goal == "minimize")
    assert (found.completed, found.best_trial) == (len(ranking), ranking[0].trial)
    best = as_run(StudyState(full)).best
    assert found.loss == pytest.approx(abs(found.best - best))
    assert (found.images < as_run(StudyState(full)).images) == (rule != "none")


@pytest.mark.parametrize("rule", list(RULES)[:5])
def test_the_rule_that_was_used_needs_nothing_that_was_not_recorded(rule):
    events = study(RULES[rule])
    state = StudyState(events)
    found = replay(events, parse_stopping(rule, state))
    assert found.is_exact
    assert (found.images, found.best, found.loss) == (as_run(state).images, as_run(state).best, 0.0)


def test_what_was_not_recorded_is_unknown_and_not_made_up():
    events = study(RULES["{name: asha, min_images: 100}"])
    state = StudyState(events)
    found = replay(events, parse_stopping("none", state))
    stopped = sorted(record.trial for record in state.of_state("stopped"))
    assert list(found.unknown) == stopped
    assert not found.is_exact
    assert found.images == as_run(state).images  # what is recorded, and no more
    assert found.to_dict()["unknown"] == stopped


def test_a_rule_must_decide_where_the_study_was_evaluated():
    state = StudyState(study("none"))
    assert parse_stopping("asha", state).min_images == 100
    with pytest.raises(ConfigError, match=r"every rung must be one where this study was evaluated, got 150"):
        parse_stopping("{name: asha, min_images: 150}", state)
    with pytest.raises(ConfigError, match=r"got 900"):
        parse_stopping("{name: asha, min_images: 900}", state)
    with pytest.raises(ConfigError, match=r"unknown stopping 'ashaa'. Did you mean 'asha'"):
        parse_stopping("ashaa", state)
    with pytest.raises(ConfigError, match=r"must be a stopping's name or a mapping"):
        parse_stopping("[1]", state)
    rule = parse_stopping("{name: asha, within: knd}", state)
    with pytest.raises(ConfigError, match=r"within must be a key of the space.* 'kind'"):
        replay(study("none"), rule)


def test_a_study_without_curves_cannot_be_replayed():
    events = study("none")[:1]
    with pytest.raises(StudyError, match="has no recorded curves to replay"):
        parse_stopping("asha", StudyState(events))
