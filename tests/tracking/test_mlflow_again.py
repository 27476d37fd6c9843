"""Writing a ledger again, in parts, or into a store that fails: nothing is lost, nothing is there twice."""

import time
from typing import Any

import pytest

from gcsearch.tracking import MLflowTracker
from gcsearch.tracking.store import Store
from gcsearch.tracking.view import milliseconds

from .ledgers import (
    artifact,
    ended,
    event,
    history,
    image_files,
    result,
    samples,
    started,
    trial_started,
    write,
)


def test_writing_again_changes_nothing(uri, folder, ledger, read) -> None:
    def content() -> dict[str, Any]:
        return {
            trial: (run.to_dictionary(), [history(uri, run.info.run_id, key) for key in run.data.metrics])
            for trial, run in read().items()
        }

    write(uri, folder, ledger)
    before = content()
    write(uri, folder, ledger)
    assert content() == before


def test_a_lost_position_writes_the_same_rows_again(uri, folder, ledger, read) -> None:
    write(uri, folder, ledger)
    run_id = read()["0000"].info.run_id
    before = history(uri, run_id, "eval/fid"), image_files(uri, run_id)
    Store(uri, "mu", folder).client.set_tag(run_id, "gcsearch.events", "0")
    write(uri, folder, ledger)
    assert (history(uri, run_id, "eval/fid"), image_files(uri, run_id)) == before
    assert read()["0000"].data.tags["gcsearch.events"] == "7"


@pytest.mark.parametrize("cut", [1, 2, 4, 10])
def test_a_resumed_study_goes_on_in_the_same_runs(uri, folder, ledger, read, cut: int) -> None:
    write(uri, folder, ledger[:cut])
    early = {trial: run.info.run_id for trial, run in read().items()}
    write(uri, folder, ledger)
    late = read()
    assert {trial: late[trial].info.run_id for trial in early} == early
    assert len(history(uri, late["0000"].info.run_id, "eval/fid")) == 2
    assert late["0000"].info.status == "FINISHED"


def test_an_interrupted_trial_runs_again_in_its_run(uri, folder, ledger, read) -> None:
    write(uri, folder, ledger)
    write(uri, folder, [*ledger, started(30), trial_started("0004", 31)])
    assert read()["0004"].info.status == "RUNNING"
    assert read()[""].info.status == "RUNNING"
    end = [result("0004", 32, 4000, 5.0), ended("0004", 33, "completed"), event("study_ended", 34)]
    write(uri, folder, [*ledger, started(30), trial_started("0004", 31), *end])
    runs = read()
    assert runs["0004"].info.status == "FINISHED"
    assert runs["0004"].info.end_time == milliseconds(ledger[0]) + 33000
    assert (runs[""].data.tags["gcsearch.winner"], runs[""].data.metrics["best/fid"]) == ("0004", 5.0)


def test_a_refused_event_is_dropped_and_the_others_are_written(uri, folder, read, caplog) -> None:
    events = [started(), trial_started("0000", 1), result("0000", 2, 1000, 9.0), result("0000", 3, 2000, 8.0)]
    broken = {**result("0000", 2.5, 1500, 8.5), "metrics": {"eval/fid": "much"}}
    write(uri, folder, [*events[:3], broken, events[3]])
    assert [value for value, *_ in history(uri, read()["0000"].info.run_id, "eval/fid")] == [9.0, 8.0]
    assert "refused 'result' 0000" in caplog.text


def test_a_missing_sample_grid_is_a_warning(uri, folder, read, caplog) -> None:
    write(uri, folder, [started(), trial_started("0000", 1), samples(2, 64_000)])
    assert "cannot be read" in caplog.text
    assert "0000" in read()


def test_events_wait_while_the_store_fails(uri, folder, ledger, read, monkeypatch, caplog) -> None:
    works, original = [], Store.write

    def write_or_fail(self: Store, *arguments: Any) -> None:
        if not works:
            raise ConnectionError("the server is down")
        original(self, *arguments)

    monkeypatch.setattr(Store, "write", write_or_fail)
    tracker = MLflowTracker(uri, folder, "mu", first_retry_s=0.01, last_retry_s=0.05)
    for one in ledger:
        tracker.on_event(one)
    deadline = time.monotonic() + 10
    while "cannot be written to" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    assert tracker.num_unwritten == len(ledger)
    works.append(True)
    assert tracker.close(30) == 0
    assert len(read()) == 7
    assert caplog.text.count("cannot be written to") == 1
    assert len(history(uri, read()["0000"].info.run_id, "eval/fid")) == 2


def test_a_grid_that_was_half_written_is_not_there_twice(uri, folder, ledger, read, monkeypatch) -> None:
    from mlflow import MlflowClient

    original, calls = MlflowClient.log_artifact, []

    def log_or_fail(self: MlflowClient, run_id: str, path: str, artifact_path: str | None = None) -> None:
        calls.append(path)
        if path.endswith("compressed.webp") and len(calls) == 2:
            raise ConnectionError("the server was killed")
        original(self, run_id, path, artifact_path)

    monkeypatch.setattr(MlflowClient, "log_artifact", log_or_fail)
    tracker = MLflowTracker(uri, folder, "mu", first_retry_s=0.01)
    for one in ledger:
        tracker.on_event(one)
    deadline = time.monotonic() + 20
    while tracker.num_unwritten:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert tracker.close(30) == 0
    run = read()["0000"]
    assert len(image_files(uri, run.info.run_id)) == 4
    assert run.data.tags["mlflow.loggedImages"] == "True"


def test_a_run_that_a_slow_server_made_twice_is_deleted(uri, folder, ledger, read, monkeypatch) -> None:
    original, failures = Store.create_run, []

    def create_and_lose_the_answer(self: Store, *arguments: Any) -> Any:
        if failures:
            return original(self, *arguments)
        failures.append(arguments)
        raise TimeoutError("no answer after 10 s")

    monkeypatch.setattr(Store, "create_run", create_and_lose_the_answer)
    tracker = MLflowTracker(uri, folder, "mu", first_retry_s=0.01)
    for one in ledger:
        tracker.on_event(one)
    deadline = time.monotonic() + 20
    while tracker.num_unwritten:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    original(Store(uri, "mu", folder), *failures[0])  # the server has got round to it
    assert tracker.close(30) == 0
    assert {trial: run.data.tags["gcsearch.events"] for trial, run in read().items()}["0000"] == "7"


def test_files_of_the_study_are_replaced_and_survive_an_outage(uri, folder, ledger, read, monkeypatch) -> None:
    first = MLflowTracker(uri, folder, "mu")
    for one in ledger:
        first.on_event(one)
    first.attach({"figures/curves.png": b"old", "report.html": b"page"})
    assert first.close(30) == 0
    run_id = read()[""].info.run_id
    assert artifact(uri, run_id, "figures/curves.png") == "old"
    assert artifact(uri, run_id, "report.html") == "page"

    original, calls = Store.write_bytes, []

    def write_or_fail(self: Store, *arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) in (1, 3):
            raise ConnectionError("the server is down")
        original(self, *arguments)

    monkeypatch.setattr(Store, "write_bytes", write_or_fail)
    again = MLflowTracker(uri, folder, "mu", first_retry_s=0.01)
    for one in ledger:
        again.on_event(one)
    again.attach({"figures/curves.png": b"new", "report.html": b"page"})
    assert again.num_received == len(ledger) + 2
    assert again.close(30) == 0
    assert len(calls) == 4
    assert artifact(uri, run_id, "figures/curves.png") == "new"
    files = Store(uri, "mu", folder).client.list_artifacts(run_id, "figures")
    assert [file.path for file in files] == ["figures/curves.png"]


def test_a_hiccup_while_the_rest_is_written_loses_nothing(uri, folder, ledger, read, monkeypatch) -> None:
    original, calls = Store.write, []

    def write_or_fail(self: Store, *arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) % 2 == 1:
            raise ConnectionError("status 500")
        original(self, *arguments)

    monkeypatch.setattr(Store, "write", write_or_fail)
    tracker = MLflowTracker(uri, folder, "mu", first_retry_s=0.01)
    for one in ledger:
        tracker.on_event(one)
    assert tracker.close(60) == 0
    assert len(calls) == 14
    assert len(read()) == 7


def test_an_unreachable_server_costs_nothing(folder, ledger, caplog) -> None:
    Store.__init__.__globals__["import_client"]()  # the import of MLflow is not what is measured
    begin = time.monotonic()
    tracker = MLflowTracker("http://127.0.0.1:1", folder, "mu", first_retry_s=0.05)
    for one in ledger:
        tracker.on_event(one)
    assert time.monotonic() - begin < 1.0
    time.sleep(0.3)
    begin = time.monotonic()
    assert tracker.close(2.0) == len(ledger)
    assert time.monotonic() - begin < 2.5
    assert tracker.links() == []
    assert "gcsearch sync" in caplog.text
    assert caplog.text.count("cannot be written to") == 1


def test_a_deleted_experiment_is_restored(uri, folder, ledger, read, caplog) -> None:
    write(uri, folder, ledger[:2])
    store = Store(uri, "mu", folder)
    store.client.delete_experiment(store.experiment_id)
    write(uri, folder, ledger)
    assert len(read()) == 7
    assert "is restored" in caplog.text


def test_on_event_returns_at_once(uri, folder, ledger) -> None:
    tracker = MLflowTracker(uri, folder, "mu")
    begin = time.perf_counter()
    for one in ledger:
        tracker.on_event(one)
    assert (time.perf_counter() - begin) / len(ledger) < 1e-3
    tracker.close(30)
    tracker.on_event(ledger[0])
    assert tracker.num_unwritten == 0
