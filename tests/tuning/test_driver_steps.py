"""The driver without Ray, a call at a time: which trial is next, what a report changes, and how many fit."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import pytest

from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.tuning.search_driver import SearchDriver
from gcsearch.tuning.spec import load_study

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_a_decision_that_was_not_recorded_is_made_on_what_was_known_then(load, tmp_path):
    """Trial 1 went on at its rung as the first there; that others did better since does not stop it on resume."""
    study = load(search={"sampler": "random", "start_from": [{"coupling.mu": 0.8}, {"coupling.mu": 0.3}]})
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState())
        driver.write("study_started")
        for value in (5.0, 1.0):
            record = driver.next_trial()
            result = {"images": 800, "metrics": {"eval/fid": value}, "identities": {}}
            assert not driver.on_report(record.trial, {"result": result})
            later = datetime.fromisoformat(driver.state.trials[record.trial].results[0].time) + timedelta(seconds=1)
            while datetime.now(later.tzinfo) < later - timedelta(seconds=0.99):
                pass
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState(read_events(tmp_path / LEDGER_NAME)))
        assert driver.next_trial().trial == "0000"
        assert driver.next_trial().trial == "0001"


def test_unfinished_trials_go_first_under_their_number_and_with_their_parameters(study, tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState())
        started = [driver.next_trial() for _ in range(3)]
        params = [dict(record.params) for record in started]
        driver.end("0001", "completed")
        driver.interrupt()
        assert driver.next_trial() is None
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState(read_events(tmp_path / LEDGER_NAME)))
        assert [record.state for record in driver.state.trials.values()] == ["interrupted", "completed", "interrupted"]
        again = [driver.next_trial() for _ in range(3)]
        assert [record.trial for record in again] == ["0000", "0002", "0003"]
        assert [record.params for record in again[:2]] == [params[0], params[2]]
        assert {record.state for record in again} == {"running"}


def report(driver, trial, images, value=1.0):
    return driver.on_report(trial, {"result": {"images": images, "metrics": {"eval/fid": value}, "identities": {}}})


@pytest.mark.parametrize("limit", ["wall_hours", "gpu_hours"])
def test_when_the_hours_are_spent_running_trials_go_to_their_next_rung_and_nothing_else_starts(
    load, tmp_path, monkeypatch, limit
):
    budget = {"trials": 9, "wall_hours": 1.0} if limit == "wall_hours" else {"trials": 9, "gpu_hours": 2.0}
    study = load(budget=budget, stopping="none")
    now = [0.0]

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 1, 1, tzinfo=tz) + timedelta(seconds=now[0])

    monkeypatch.setattr("gcsearch.tuning.search_driver.time.monotonic", lambda: now[0])
    monkeypatch.setattr("gcsearch.ledger.datetime", Clock)
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState())
        driver.write("study_started")
        assert driver.next_trial().trial == "0000"
        assert driver.next_trial().trial == "0001"
        now[0] = 3599.0  # two trials at a time: two worker-hours
        assert not driver.budget_is_spent()
        assert not report(driver, "0000", 2400)
        now[0] = 3601.0
        assert driver.next_trial() is None
        assert not report(driver, "0000", 3200)  # it ends by itself
        driver.on_report("0000", {"outcome": {"state": "completed", "reason": None}})
        assert report(driver, "0001", 800)
        assert driver.state.trials["0001"].state == "interrupted"
        assert "hours are spent" in driver.state.trials["0001"].reason
        assert not driver.has_work()
        driver.interrupt()
    now[0] = 9000.0  # what earlier runs used counts, the time between them does not
    for factor, trial in ((1.0, None), (1.1, "0001")):
        more = load(budget=budget | {limit: factor * budget[limit]}, stopping="none")
        with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
            driver = SearchDriver(more, tmp_path, ledger, StudyState(read_events(tmp_path / LEDGER_NAME)))
            driver.write("study_started")
            started = driver.next_trial()
            assert driver.budget_is_spent() == (trial is None)
            assert (started and started.trial) == trial


def test_a_budget_without_a_number_of_trials_has_none(load):
    assert load(budget={"gpu_hours": 1.0}).budget.trials is None
    assert load(budget={}).budget.trials == 24
    assert load(budget=..., resources={"workers": 2}).resources.devices == 2
    assert load(resources={"workers": 2, "gpus_per_worker": 2}).resources.devices == 4


def test_reports_that_are_repeated_or_late_change_nothing(lines_of, study, tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState())
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


def test_samples_whose_message_was_lost_with_a_machine_are_noted_with_the_result(study, tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState())
        trial = driver.next_trial().trial
        grid = tmp_path / "trials" / trial / "samples" / "000000800.png"
        grid.parent.mkdir(parents=True)
        grid.touch()
        for images in (800, 1600):
            driver.on_report(trial, {"result": {"images": images, "metrics": {"eval/fid": 1.0}, "identities": {}}})
        told = [event["event"] for event in read_events(tmp_path / LEDGER_NAME)]
        assert told[-5:] == ["samples", "result", "checkpoint", "result", "checkpoint"]
        assert driver.state.trials[trial].samples == {800: f"trials/{trial}/samples/000000800.png"}


def test_a_diverged_trial_is_worst_at_every_later_rung_and_not_before(study, tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState())
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
        driver = SearchDriver(study, tmp_path, ledger, StudyState())
        while record := driver.next_trial():
            driver.end(record.trial, "completed")
    states = [record.state for record in driver.state.trials.values()]
    assert len(states) == 30
    assert set(states) == {"completed", "failed"}
    failed = next(driver.state.of_state("failed"))
    assert "sigma_m" in failed.reason
    assert failed.params["process.sigma_min"] >= failed.params["process.sigma_max"]
