"""The engine, a decision at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from gcsearch.config import Experiment
from gcsearch.config.documents import Document
from gcsearch.ledger import StudyState, TrialRecord
from gcsearch.tuning.replay import METRIC, make_engine
from gcsearch.tuning.samplers.plain import RandomSampler
from gcsearch.tuning.settling import Settling
from gcsearch.tuning.stopping import ASHA, NoStopping

SPACE = {"x": {"min": 0.0, "max": 1.0}, "kind": {"values": ["a", "b"]}}


def engine(stopping="none", **changes):
    settings = {"goal": "minimize", "horizon_images": 900, "seed": 0} | changes
    return make_engine(SPACE, {"sampler": "random"}, stopping, **settings)


def events(*steps):
    """Events at increasing times: (event, trial, fields)."""
    for number, (kind, trial, fields) in enumerate(steps):
        yield {"event": kind, "trial": trial, "time": f"2026-01-01T00:00:{number:02d}+00:00"} | fields


def start(trial, kind="a"):
    return ("trial_started", trial, {"kind": "trial", "params": {"x": 0.5, "kind": kind}})


def result(trial, images, value):
    return ("result", trial, {"images": images, "metrics": {METRIC: value}})


def test_a_decision_is_made_on_what_was_known_even_if_times_are_equal():
    rule = {"name": "asha", "min_images": 300, "variant": "stopping"}
    steps = [start("0000"), start("0001"), result("0000", 300, 2.0), result("0001", 300, 1.0)]
    same_time = [event | {"time": "2026-01-01T00:00:00+00:00"} for event in events(*steps)]
    state = StudyState(same_time)
    assert not engine(rule).decide(state, state.trials["0000"]).stop  # the first at its rung, then
    worse = StudyState([*same_time[:3], same_time[3] | {"metrics": {METRIC: 3.0}}])
    assert engine(rule).decide(worse, worse.trials["0001"]).stop


def test_finalists_and_arms_are_not_the_search():
    finalist = ("trial_started", "0000-s1", {"kind": "finalist", "params": {"x": 0.1, "kind": "a"}})
    state = StudyState(events(start("0000"), finalist, result("0000-s1", 900, 0.0)))
    assert len(engine().observations(state)) == 1
    assert dict(engine().table(state, state.trials["0000"])) == {}
    assert engine().next(state, ["0000"]).trial == "0001"  # as if there were none


def test_only_what_can_reach_its_next_rung_is_given():
    rule = {"name": "asha", "min_images": 100, "variant": "stopping"}
    state = StudyState(events(start("0000"), result("0000", 300, 1.0)))
    assert engine(rule).next(state, left_images=600).trial == "0000"
    assert engine(rule).next(state, left_images=599).trial == "0001"
    assert engine(rule).next(state, left_images=99) is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_audits_are_evenly_spaced(share):
    chosen = [engine({"name": "asha", "min_images": 100, "audit": share}).is_audit(number) for number in range(100)]
    for begin in range(0, 90, 10):
        assert sum(chosen[begin : begin + 10]) == round(10 * share)
    assert not any(engine().is_audit(number) for number in range(50))


def record(**timesteps):
    data = {"name": "t", "data": "digits", "network": "mlp", "timesteps": timesteps}
    data |= {"training": {"num_images": 64_000, "batch_size": 64}, "evaluation": {"every_images": 1_600}}
    experiment = Experiment.from_document(Document(data))
    return TrialRecord(trial="0000", config=experiment.to_dict(), fingerprint=experiment.fingerprint)


def test_a_score_soon_after_a_doubling_is_not_judged():
    """10, 20, 40, 80 intervals: doublings at 16,000, 32,000 and 48,000 images."""
    settling = Settling(ASHA(grace=0.05))
    doubling = record(name="exponential", s0=10, s1=80)
    found = [images for images in range(1_600, 64_000, 1_600) if settling(doubling, images)]
    assert found == [17_600, 19_200, 33_600, 35_200, 49_600, 51_200]  # not 16,000: not trained on the new levels yet
    assert not settling(record(name="fixed", num_levels=20), 17_600)
    assert not Settling(ASHA(grace=0.0))(doubling, 17_600)
    assert not Settling(NoStopping())(doubling, 17_600)
    assert not settling(TrialRecord(trial="0000"), 17_600)  # a simulated one has no schedule


@pytest.mark.parametrize(
    ("rule", "goals", "promoted", "reason"),
    [
        ({}, "minimize", "0002", "rank 3 of 3 at 300 images, expected rank 1 at 900"),
        ({"rank_by": "score"}, "minimize", "0000", "rank 1 of 3 at 300 images"),
        ({}, ["minimize", "minimize"], "0000", "rank 1 of 3 at 300 images"),
    ],
)
def test_who_waits_is_ranked_by_what_is_expected_of_it_if_the_rule_says_so(rule, goals, promoted, reason):
    """Three trials wait with scores 1, 2, 3; the sampler expects most of the last one."""
    made = make_engine(
        SPACE,
        {"sampler": "random"},
        {"name": "asha", "min_images": 300} | rule,
        goal=goals,
        horizon_images=900,
        seed=0,
    )
    made = replace(made, sampler=Foreseeing(), max_trials=3)
    keys = [METRIC] if isinstance(goals, str) else [f"{METRIC}_0", f"{METRIC}_1"]
    steps = []
    for number in range(3):
        scores = {"images": 300, "metrics": dict.fromkeys(keys, number + 1.0)}
        steps += [start(f"{number:04d}"), ("result", f"{number:04d}", scores)]
        steps += [("trial_ended", f"{number:04d}", {"state": "interrupted", "paused": True})]
    launch = made.next(StudyState(events(*steps)))
    assert (launch.trial, launch.reason) == (promoted, reason)


@dataclass(frozen=True, kw_only=True)
class Foreseeing(RandomSampler):
    """Expects that the last trial will be the best."""

    def expected(self, history):
        return [-float(number) for number in range(len(history.observations))]
