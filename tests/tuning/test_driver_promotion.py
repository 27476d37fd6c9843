"""The driver with trials that pause at their rungs and are promoted, and with trials that ignore the rule."""

from __future__ import annotations

import json
import re

import pytest

from gcsearch.ledger import ENDED, LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.tuning.search_driver import SearchDriver

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def promoting(load, sections):
    return load(stopping=sections["stopping"] | {"variant": "promotion"})


def test_every_trial_pauses_at_every_rung_and_has_an_end_when_the_study_has(run, check_ledger, promoting, tmp_path):
    state = run(promoting, tmp_path)
    assert {"completed", "stopped"} <= {record.state for record in state.trials.values()} <= {*ENDED}
    assert check_ledger(tmp_path) == set(state.trials)
    events = read_events(tmp_path / LEDGER_NAME)
    assert all(event["reason"].endswith(", waits for promotion") for event in events if event.get("paused"))
    paused = [event["images"] for event in events if event.get("paused")]
    is_settling = (
        promoting.engine().is_settling
    )  # soon after a doubling of its levels a trial is not judged, and goes on
    reached = [
        event["images"]
        for event in events
        if event["event"] == "result" and event["images"] in (800, 1600)
        if not is_settling(state.trials[event["trial"]], event["images"])
    ]
    assert paused == reached
    for record in state.of_state("stopped"):
        assert re.fullmatch(rf"rank \d of \d at {record.images} images, was not promoted", record.reason)
        assert record.images in (800, 1600)


def test_killed_at_any_event_it_is_the_study_that_was_never_killed(run, outcome, lines_of, promoting, tmp_path):
    whole = outcome(run(promoting, tmp_path / "whole"))
    lines = lines_of(tmp_path / "whole")
    for count in range(0, len(lines) + 1, 5):
        directory = tmp_path / f"killed-{count}"
        directory.mkdir()
        (directory / LEDGER_NAME).write_bytes(b"".join(lines[:count]))
        known = StudyState([json.loads(line) for line in lines[:count]])
        checkpoints = {trial: record.images for trial, record in known.trials.items() if record.images}
        assert outcome(run(promoting, directory, checkpoints)) == whole, f"killed after line {count}"


def test_a_paused_trial_is_resumed_where_it_was_with_its_parameters_and_not_before_it_is_among_the_best(
    promoting, tmp_path
):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(promoting, tmp_path, ledger, StudyState())
        for value in (3.0, 1.0, 2.0):
            started = driver.next_trial()
            result = {"images": 800, "metrics": {"eval/fid": value}, "identities": {}}
            assert driver.on_report(started.trial, {"result": result})
            assert started.state == "interrupted"
            assert started.is_paused
            if value == 1.0:  # now there are two, so the best one goes on
                resumed = driver.next_trial()
                assert (resumed.trial, resumed.images) == ("0001", 800)
                assert resumed.params == driver.state.trials["0001"].params
                assert not resumed.is_paused
        assert driver.active == {"0001"}


def test_nothing_to_start_now_is_not_the_end_while_a_trial_runs(load, sections, tmp_path):
    study = load(stopping=sections["stopping"] | {"variant": "promotion"}, budget={"trials": 3})
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState())
        trials = [driver.next_trial().trial for _ in range(3)]
        for trial, value in zip(trials[:2], (1.0, 2.0), strict=True):
            driver.on_report(trial, {"result": {"images": 800, "metrics": {"eval/fid": value}, "identities": {}}})
        assert driver.next_trial().trial == "0000"
        assert driver.next_trial() is None
        for trial, value in (("0000", 1.0), ("0002", 0.5)):
            images = 1600 if trial == "0000" else 800
            driver.on_report(trial, {"result": {"images": images, "metrics": {"eval/fid": value}, "identities": {}}})
        assert driver.next_trial().trial == "0002"  # the best at its rung, though the share has gone on


def test_audits_are_marked_in_the_ledger_and_never_stop(load, sections, run, tmp_path):
    stopping = sections["stopping"] | {"audit": 0.34}
    for variant in ("stopping", "promotion"):
        study = load(stopping=stopping | {"variant": variant})
        state = run(study, tmp_path / variant)
        events = read_events(tmp_path / variant / LEDGER_NAME)
        audits = {event["trial"] for event in events if event["event"] == "trial_started" and event.get("audit")}
        assert 3 <= len(audits) <= 4
        assert {state.trials[trial].state for trial in audits} <= {"completed", "diverged"}
        assert not any(event.get("paused") for event in events if event.get("trial") in audits)
        assert {trial for trial, record in state.trials.items() if record.is_audit} == audits


def decisions(directory):
    """What was decided and learned, in order, without times."""
    kept = ("event", "trial", "params", "images", "state", "paused", "reason")
    return [
        {key: event[key] for key in kept if key in event}
        for event in read_events(directory / LEDGER_NAME)
        if event["event"] in ("trial_started", "result", "trial_ended")
    ]


def test_an_extended_study_differs_from_one_that_was_planned_so_only_after_its_first_end(load, sections, run, tmp_path):
    """Before the first study had nothing left to do but promote its best, both decided the same.

    What waited at its end was stopped for good, which a study planned at once would have kept waiting.
    """
    stopping = sections["stopping"] | {"variant": "promotion"}
    planned = load(stopping=stopping)
    run(planned, tmp_path / "planned")
    run(load(stopping=stopping, budget={"trials": 5}), tmp_path / "extended")
    first = decisions(tmp_path / "extended")
    state = run(planned, tmp_path / "extended")
    whole, extended = decisions(tmp_path / "planned"), decisions(tmp_path / "extended")
    assert extended[: len(first)] == first
    split = next(index for index, event in enumerate(whole) if event["trial"] == "0005")
    assert split > 10
    assert first[:split] == whole[:split]
    assert first[split:] != whole[split:]
    stopped = {event["trial"] for event in first if event.get("state") == "stopped"}
    assert stopped
    assert not stopped & {event["trial"] for event in extended[len(first) :]}
    assert len(state.trials) == 9
    assert {record.state for record in state.trials.values()} <= {*ENDED}
