"""The state of a study: what the events of its ledger add up to."""

import json
import random
from datetime import UTC, datetime, timedelta

import pytest

from gcsearch.errors import StudyError
from gcsearch.ledger import LEDGER_NAME, StudyState, read_state


def at(seconds):
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def event(name, seconds=0.0, /, **fields):
    return {"event": name, "time": at(seconds), **fields}


def result(trial, images, fid, seconds=0.0, **metrics):
    identities = {"eval/fid": "metric=fid"}
    return event(
        "result", seconds, trial=trial, images=images, metrics={"eval/fid": fid, **metrics}, identities=identities
    )


STUDY = [
    event("study_started", 0, study="mine", study_id="abc"),
    event(
        "trial_started",
        1,
        trial="0000",
        kind="trial",
        params={"a": 1},
        config={"c": 2},
        fingerprint="f",
        recipe="r",
        seed=5,
    ),
    event("samples", 1, trial="0000", images=0, path="samples/0.png"),
    result("0000", 10, 3.0, 2),
    event("trial_started", 3, trial="0001", kind="trial", params={"a": 2}),
    result("0000", 20, 5.0, 4),
    event("trial_ended", 5, trial="0000", state="completed"),
    result("0001", 10, 1.0, 6),
    event("trial_ended", 7, trial="0001", state="stopped", reason="rank 3 of 3"),
    event("trial_started", 8, trial="0002", kind="finalist", params={}),
    event("trial_ended", 9, trial="0002", state="diverged", reason="loss is nan"),
    event("study_ended", 10),
]


def test_the_state_is_the_sum_of_the_events():
    state = StudyState(STUDY)
    assert state.study == STUDY[0]
    assert state.ended
    assert list(state.trials) == ["0000", "0001", "0002"]
    first, second, third = state.trials.values()
    assert (first.kind, first.params, first.config) == ("trial", {"a": 1}, {"c": 2})
    assert (first.fingerprint, first.recipe, first.seed) == ("f", "r", 5)
    assert (first.state, first.reason, first.started, first.ended) == ("completed", None, at(1), at(5))
    assert first.samples == {0: "samples/0.png"}
    assert [(entry.images, entry.metrics["eval/fid"], entry.time) for entry in first.results] == [
        (10, 3.0, at(2)),
        (20, 5.0, at(4)),
    ]
    assert first.results[0].identities == {"eval/fid": "metric=fid"}
    assert (second.state, second.reason, second.images) == ("stopped", "rank 3 of 3", 10)
    assert (third.kind, third.state, third.images) == ("finalist", "diverged", 0)


def test_the_state_of_a_file_is_that_of_its_events(tmp_path):
    path = tmp_path / LEDGER_NAME
    path.write_text("".join(json.dumps(entry) + "\n" for entry in STUDY))
    state = read_state(path)
    assert state.trials == StudyState(STUDY).trials
    assert state.ended


def test_last_and_best_values_follow_the_direction():
    trial = StudyState([*STUDY[:6], result("0000", 30, 4.0, 7, accuracy=0.5)]).trials["0000"]
    assert trial.value("eval/fid") == trial.value("eval/fid", "last") == 4.0
    assert trial.value("eval/fid", "best") == 3.0
    assert trial.value("eval/fid", "best", lower_is_better=False) == 5.0
    assert trial.value("accuracy") == 0.5
    assert trial.value("eval/kid") is None
    assert (trial.value_at("eval/fid", 20), trial.value_at("eval/fid", 15), trial.value_at("eval/kid", 20)) == (
        5.0,
        None,
        None,
    )


def test_a_repeated_or_earlier_result_changes_nothing():
    state = StudyState([*STUDY[:6], result("0000", 20, 99.0, 6), result("0000", 10, 99.0, 7)])
    assert [(entry.images, entry.metrics["eval/fid"]) for entry in state.trials["0000"].results] == [
        (10, 3.0),
        (20, 5.0),
    ]


@pytest.mark.parametrize("state", ["failed", "interrupted", "diverged"])
def test_a_restarted_trial_runs_again_and_keeps_its_results_and_first_start(state):
    events = [
        *STUDY[:6],
        event("trial_ended", 6, trial="0000", state=state, reason="why"),
        event("trial_started", 50, trial="0000"),
    ]
    trial = StudyState(events).trials["0000"]
    assert (trial.state, trial.reason, trial.ended, trial.started) == ("running", None, None, at(1))
    assert (trial.params, trial.seed, trial.images) == ({"a": 1}, 5, 20)
    ended = StudyState([*events, event("trial_ended", 60, trial="0000", state="completed")]).trials["0000"]
    assert (ended.state, ended.reason, ended.ended) == ("completed", None, at(60))


def scored(**trials):
    events = [event("study_started")]
    for trial, (state, *values) in trials.items():
        events.append(event("trial_started", trial=trial))
        events += [result(trial, 10 * (index + 1), value) for index, value in enumerate(values)]
        if state:
            events.append(event("trial_ended", trial=trial, state=state))
    return StudyState(events)


def test_only_completed_trials_are_ranked():
    state = scored(
        a=("completed", 9.0, 3.0),
        b=("stopped", 1.0),
        c=("completed", 2.0, 4.0),
        d=("diverged", 0.1),
        e=("failed", 0.1),
        f=("interrupted", 0.1),
        g=(None, 0.1),
        h=("completed",),
        i=("completed", 0.5, 9.0),
    )

    def names(**options):
        return "".join(trial.trial for trial in state.ranking("eval/fid", **options))

    assert names(lower_is_better=True) == "aci"
    assert names(lower_is_better=True, use="best") == "ica"
    assert names(lower_is_better=False) == "ica"
    assert names(lower_is_better=False, use="best") == "aic"
    assert state.ranking("eval/kid", lower_is_better=True) == []


def test_equal_scores_keep_the_order_of_the_trials():
    state = scored(b=("completed", 1.0), a=("completed", 1.0), c=("completed", 1.0))
    for lower_is_better in (True, False):
        ranking = state.ranking("eval/fid", lower_is_better=lower_is_better)
        assert [trial.trial for trial in ranking] == ["b", "a", "c"]


def test_trials_are_selected_by_state_in_order():
    state = scored(b=("completed", 1.0), a=("failed", 1.0), c=(None, 1.0), d=("completed", 2.0))
    assert [trial.trial for trial in state.of_state("completed")] == ["b", "d"]
    assert [trial.trial for trial in state.of_state("completed", "running")] == ["b", "c", "d"]


def test_earlier_wall_time_adds_up_the_runs_before_the_present_one_also_killed_ones():
    events = [
        event("study_started", 0, study="mine"),
        event("trial_started", 5, trial="0000"),
        result("0000", 10, 1.0, 30),  # killed here
        event("study_started", 1000, study="other"),
        event("trial_started", 1001, trial="0000"),
        event("study_interrupted", 1100),
        event("study_started", 5000, study="mine"),
        result("0000", 20, 1.0, 5050),
    ]
    walls = [StudyState(events[:length]).earlier_wall_seconds for length in range(len(events) + 1)]
    assert walls == [0, 0, 0, 0, 30, 30, 30, 130, 130]
    state = StudyState(events)
    assert state.study == events[0], "the first start describes the study"
    assert not state.ended


def test_a_study_that_goes_on_has_not_ended():
    assert StudyState(STUDY).ended
    assert not StudyState([*STUDY, event("study_started", 20)]).ended


def test_an_event_of_an_unknown_trial_is_an_error():
    with pytest.raises(StudyError, match="'result' of trial 0007, which was never started"):
        StudyState([event("study_started"), result("0007", 10, 1.0)])


def test_unknown_events_are_ignored():
    before = StudyState(STUDY)
    after = StudyState([*STUDY, event("invented", 11, anything=1), event("invented", 12, trial="0000", images=99)])
    assert after.trials == before.trials


def random_ledger(seed):
    """A valid ledger with several runs, restarts, repeated results and kills at any time."""
    random_ = random.Random(seed)
    clock, running, images, count = 0.0, set(), {}, 0
    events = [event("study_started", 0, study="mine")]
    for _ in range(200):
        clock += random_.random() * 10
        move = random_.choice(["start", "start", "result", "result", "result", "samples", "end", "kill", "note"])
        trial = random_.choice(sorted(running)) if running else None
        if move == "start":
            trial = f"{count:04d}"
            count += 1
            running.add(trial)
            images[trial] = 0
            events.append(event("trial_started", clock, trial=trial, kind="trial", params={"a": count}))
        elif move == "kill":
            events.append(event("study_started", clock + 100, study="mine"))
            clock += 100
            events += [event("trial_started", clock, trial=name) for name in sorted(running)]
        elif move == "note":
            events.append(event("note", clock))
        elif trial and move == "result":
            images[trial] = max(0, images[trial] + random_.choice([10, 10, 0]))
            events.append(result(trial, images[trial] or 10, random_.random(), clock))
        elif trial and move == "samples":
            events.append(event("samples", clock, trial=trial, images=images[trial], path="x.png"))
        elif trial and move == "end":
            running.discard(trial)
            state = random_.choice(["completed", "stopped", "diverged", "failed", "interrupted"])
            events.append(event("trial_ended", clock, trial=trial, state=state))
    return events


@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_of_a_ledger_is_a_state_and_one_event_more_is_the_next_one(seed):
    events = random_ledger(seed)
    growing = StudyState()
    for length in range(len(events) + 1):
        state = StudyState(events[:length])
        assert vars(state) == vars(growing)
        assert state.earlier_wall_seconds >= 0
        for trial in state.trials.values():
            counts = [entry.images for entry in trial.results]
            assert counts == sorted(set(counts))
            assert (trial.ended is None) == (trial.state == "running")
        if length < len(events):
            growing.apply(events[length])
