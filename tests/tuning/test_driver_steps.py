"""The driver without Ray, a call at a time: which trial is next, what a report changes, and how many fit."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta

import pytest

from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.tuning.driver import Driver
from gcsearch.tuning.spec import load_study

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_a_decision_that_was_not_recorded_is_made_on_what_was_known_then(load, tmp_path):
    """Trial 1 went on at its rung as the first there; that others did better since does not stop it on resume."""
    study = load(search={"sampler": "random", "start_from": [{"coupling.mu": 0.8}, {"coupling.mu": 0.3}]})
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        driver.write("study_started")
        for value in (5.0, 1.0):
            record = driver.next_trial()
            result = {"images": 800, "metrics": {"eval/fid": value}, "identities": {}}
            assert not driver.on_report(record.trial, {"result": result})
            later = datetime.fromisoformat(driver.state.trials[record.trial].results[0].time) + timedelta(seconds=1)
            while datetime.now(later.tzinfo) < later - timedelta(seconds=0.99):
                pass
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState(read_events(tmp_path / LEDGER_NAME)))
        assert driver.next_trial().trial == "0000"
        assert driver.next_trial().trial == "0001"


def test_unfinished_trials_go_first_under_their_number_and_with_their_parameters(study, tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        started = [driver.next_trial() for _ in range(3)]
        params = [dict(record.params) for record in started]
        driver.end("0001", "completed")
        driver.interrupt()
        assert driver.next_trial() is None
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState(read_events(tmp_path / LEDGER_NAME)))
        assert [record.state for record in driver.state.trials.values()] == ["interrupted", "completed", "interrupted"]
        again = [driver.next_trial() for _ in range(3)]
        assert [record.trial for record in again] == ["0000", "0002", "0003"]
        assert [record.params for record in again[:2]] == [params[0], params[2]]
        assert {record.state for record in again} == {"running"}


def test_wall_hours_stop_new_trials_over_all_runs_but_let_started_ones_end(load, lines_of, tmp_path, monkeypatch):
    study = load(budget={"trials": 9, "wall_hours": 1.0})
    now = [0.0]
    monkeypatch.setattr("gcsearch.tuning.driver.time.monotonic", lambda: now[0])
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        driver.write("study_started")
        assert driver.next_trial() is not None
        now[0] = 3599.0
        assert driver.next_trial() is not None
        now[0] = 3601.0
        assert driver.next_trial() is None
    lines = [json.loads(line) for line in lines_of(tmp_path)]
    lines[-1]["time"] = (datetime.fromisoformat(lines[0]["time"]) + timedelta(hours=1.5)).isoformat()
    (tmp_path / LEDGER_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState(lines))
        driver.write("study_started")
        assert driver.budget_is_spent()
        assert driver.has_work()
        assert [driver.next_trial().trial for _ in range(2)] == ["0000", "0001"]
        assert driver.next_trial() is None


def test_reports_that_are_repeated_or_late_change_nothing(lines_of, study, tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        trial = driver.next_trial().trial
        result = {"images": 800, "metrics": {"eval/fid": 1.0}, "identities": {}}
        assert not driver.on_report(trial, {"result": result})
        assert not driver.on_report(trial, {"samples": [800, "a.png"]})
        before = lines_of(tmp_path)
        assert not driver.on_report(trial, {"result": result | {"metrics": {"eval/fid": 2.0}}})
        assert not driver.on_report(trial, {"samples": [800, "a.png"]})
        assert lines_of(tmp_path) == before
        driver.on_report(trial, {"outcome": {"state": "completed", "reason": None}})
        before = lines_of(tmp_path)
        assert driver.on_report(trial, {"result": result | {"images": 1600}})
        assert lines_of(tmp_path) == before


def test_a_diverged_trial_is_worst_at_every_later_rung_and_not_before(study, tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        first, second = driver.next_trial(), driver.next_trial()
        driver.on_report(first.trial, {"result": {"images": 800, "metrics": {"eval/fid": 1.0}, "identities": {}}})
        driver.on_report(first.trial, {"outcome": {"state": "diverged", "reason": "non-finite loss"}})
        assert dict(driver.engine.table(driver.state, second)) == {
            800: {"0000": 1.0},
            1600: {"0000": math.inf},
            2400: {"0000": math.inf},
            3200: {"0000": math.inf},
        }
        assert driver.engine.observations(driver.state)[0].scores == {
            800: 1.0,
            1600: math.inf,
            2400: math.inf,
            3200: math.inf,
        }
        assert driver.engine.observations(driver.state)[1].is_running


def test_values_that_are_illegal_together_fail_one_trial_and_not_the_study(study_file, tmp_path):
    space = {"process.sigma_min": {"values": [0.1, 40.0]}, "process.sigma_max": {"values": [60.0, 30.0]}}
    experiment = "name: tiny\ndata: digits\nnetwork: {name: mlp, width: 16}\nprocess: {sigma_min: 1, sigma_max: 60}\n"
    experiment += "training: {num_images: 3_200}\nevaluation: {every_images: 800, metrics: [fid]}\n"
    path = study_file(space=space, experiment="tiny", budget={"trials": 30}, search={"sampler": "random"})
    (path.parent / "experiments" / "tiny.yaml").write_text(experiment)
    study = load_study(path)
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        while record := driver.next_trial():
            driver.end(record.trial, "completed")
    states = [record.state for record in driver.state.trials.values()]
    assert len(states) == 30
    assert set(states) == {"completed", "failed"}
    failed = next(driver.state.of_state("failed"))
    assert "sigma_m" in failed.reason
    assert failed.params["process.sigma_min"] >= failed.params["process.sigma_max"]
