import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ruamel.yaml import YAML

from gcsearch.ledger import Event
from gcsearch.tracking import MLflowTracker
from gcsearch.tracking.names import CONFIG_PREFIX, PALETTE
from gcsearch.tracking.store import Store
from gcsearch.tracking.view import STATUS, milliseconds, trial_update

STUDY_ID = "0123456789abcdef"
PROVENANCE = {"command": "gcsearch run mu.yaml", "seeds": {"search": 0}}
IDENTITY = (
    "metric=fid | extractor=digits@030a71db | reference=digits@b41ca9fd3354 x1797 | num_samples=64 | "
    "sampler=one_step | quantisation=clip_round_uint8"
)
PARAMS = {"coupling.mu": 0.314159265, "timesteps": "exponential", "optimizer": "lion", "optimizer.lr": 1.25e-5}
CONFIG = {
    "seed": 0,
    "coupling": {"name": "generator", "mu": 0.314159265},
    "optimizer": {"name": "lion", "lr": 1.25e-5, "betas": [0.9, 0.99]},
}


def event(name: str, second: float, **fields: Any) -> Event:
    return {"event": name, "time": f"2026-11-21T10:00:{second:06.3f}+00:00", **fields}


def started(second: float = 0.0, **fields: Any) -> Event:
    objective = {"metric": "fid", "goal": "minimize", "use": "last", "key": "eval/fid"}
    keys = ["coupling.mu", "timesteps", "optimizer"]
    fields |= {"objective": objective, "keys": keys, "horizon_images": 4000}
    return event("study_started", second, study="mu", study_id=STUDY_ID, provenance=PROVENANCE, **fields)


def trial_started(trial: str, second: float, **fields: Any) -> Event:
    common = {"kind": "trial", "params": PARAMS, "config": CONFIG, "seed": 0}
    return event("trial_started", second, trial=trial, fingerprint=f"f{trial}", recipe=f"r{trial}", **common | fields)


def result(trial: str, second: float, images: int, fid: float, **more: float) -> Event:
    metrics = {"eval/fid": fid, "train/loss": 0.5, **more}
    return event("result", second, trial=trial, images=images, metrics=metrics, identities={"eval/fid": IDENTITY})


def ended(trial: str, second: float, state: str, reason: str | None = None) -> Event:
    return event("trial_ended", second, trial=trial, state=state, **({"reason": reason} if reason else {}))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables; creating them takes seconds, copying them nothing."""
    path = tmp_path_factory.mktemp("store") / "empty.db"
    Store(f"sqlite:///{path}", "unused", path.parent)
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "studies" / "mu"
    for images in (0, 2000):
        path = directory / "trials" / "0000" / "samples" / f"{images:09d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), color=images % 255).save(path)
    (directory / "study.yaml").write_text("name: mu\n")
    (directory / "environment.txt").write_text("torch==2.15.0\n")
    return directory


def samples(second: float, images: int) -> Event:
    return event("samples", second, trial="0000", images=images, path=f"trials/0000/samples/{images:09d}.png")


@pytest.fixture
def ledger() -> list[Event]:
    """Five trials, one of each kind of end, and one that runs."""
    return [
        started(),
        trial_started("0000", 1),
        samples(2, 0),
        result("0000", 3, 2000, 20.0),
        samples(4, 2000),
        event("checkpoint", 4.5, trial="0000", images=2000, path="x"),
        trial_started("0001", 5),
        result("0001", 6, 2000, 30.0),
        ended("0001", 7, "stopped", "2000 images: rank 2 of 2"),
        result("0000", 8.125, 4000, 10.0, **{"eval/kid": math.inf}),
        ended("0000", 9, "completed"),
        trial_started("0002", 10),
        ended("0002", 11, "diverged", "the loss is nan"),
        trial_started("0003", 12),
        ended("0003", 13, "failed", "out of memory"),
        trial_started("0004", 14),
        ended("0004", 15, "interrupted"),
        trial_started("0005", 16),
        event("study_ended", 20),
    ]


def write(uri: str, folder: Path, events: list[Event], study: str = "mu") -> MLflowTracker:
    tracker = MLflowTracker(uri, folder, study)
    for one in events:
        tracker.on_event(one)
    assert tracker.close(30) == 0
    return tracker


@pytest.fixture
def read(uri: str) -> Callable[[], dict[str, Any]]:
    """Runs in the store by trial."""

    def runs() -> dict[str, Any]:
        found = list(Store(uri, "mu", Path()).runs())
        by_trial = {run.data.tags.get("gcsearch.trial", ""): run for run in found}
        assert len(by_trial) == len(found), "a trial has two runs"
        return by_trial

    return runs


def history(uri: str, run_id: str, key: str) -> list[tuple[float, int, int]]:
    rows = Store(uri, "mu", Path()).client.get_metric_history(run_id, key)
    return [(row.value, row.step, row.timestamp) for row in rows]


def artifact(uri: str, run_id: str, name: str) -> str:
    return Path(Store(uri, "mu", Path()).client.download_artifacts(run_id, name)).read_text()


def image_files(uri: str, run_id: str) -> list[str]:
    return [file.path for file in Store(uri, "mu", Path()).client.list_artifacts(run_id, "images")]


def test_every_trial_is_one_flat_run_and_the_study_another(uri: str, folder: Path, ledger: list[Event], read) -> None:
    tracker = write(uri, folder, ledger)
    runs = read()
    assert set(runs) == {"", "0000", "0001", "0002", "0003", "0004", "0005"}
    assert tracker.run_ids == {trial: run.info.run_id for trial, run in runs.items()}
    assert all("mlflow.parentRunId" not in run.data.tags for run in runs.values())
    statuses = {trial: run.info.status for trial, run in runs.items()}
    assert statuses == {
        "": "FINISHED",
        "0000": "FINISHED",
        "0001": "FINISHED",
        "0002": "FAILED",
        "0003": "FAILED",
        "0004": "KILLED",
        "0005": "RUNNING",
    }
    assert runs["0001"].data.tags["gcsearch.state"] == "stopped"
    assert runs["0001"].data.tags["gcsearch.reason"] == "2000 images: rank 2 of 2"
    assert runs["0002"].data.tags["gcsearch.state"] == "diverged"


def test_a_trial_carries_short_params_first_then_its_configuration(uri, folder, ledger, read) -> None:
    write(uri, folder, ledger)
    run = read()["0000"]
    params = run.data.params
    varied = {"mu": "0.3142", "timesteps": "exponential", "optimizer": "lion", "lr": "1.25e-5"}
    assert {key: params[key] for key in varied} == varied
    assert params["z_config/coupling.mu"] == "0.314159265"
    assert params["z_config/optimizer.betas"] == "[0.9, 0.99]"
    assert sorted(params)[: len(varied)] == sorted(varied)
    assert run.info.run_name == "0000 mu=0.314 exponential lion lr=1.25e-5"
    assert {key: value for key, value in run.data.tags.items() if key.startswith("gcsearch.")} == {
        "gcsearch.study": "mu",
        "gcsearch.study_id": STUDY_ID,
        "gcsearch.kind": "trial",
        "gcsearch.trial": "0000",
        "gcsearch.state": "completed",
        "gcsearch.fingerprint": "f0000",
        "gcsearch.recipe": "r0000",
        "gcsearch.seed": "0",
        "gcsearch.events": "7",
    }
    assert run.data.tags["mlflow.runColor"] == PALETTE[0]


def test_a_trial_carries_its_experiment_file_and_names_its_data(uri, folder, ledger, read) -> None:
    write(uri, folder, ledger)
    run = read()["0000"]
    assert YAML(typ="safe").load(artifact(uri, run.info.run_id, "config.yaml")) == CONFIG
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "b41ca9fd3354")
    assert json.loads(data.dataset.profile) == {"num_rows": 1797}
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    assert read()["0002"].inputs.dataset_inputs == []  # it has no result that would say


def test_metrics_have_kimg_steps_event_times_and_no_infinity(uri, folder, ledger, read) -> None:
    write(uri, folder, ledger)
    run = read()["0000"]
    base = milliseconds(ledger[0])
    assert history(uri, run.info.run_id, "eval/fid") == [(20.0, 2, base + 3000), (10.0, 4, base + 8125)]
    assert "eval/kid" not in run.data.metrics
    assert (run.info.start_time, run.info.end_time) == (base + 1000, base + 9000)


def test_sample_grids_are_logged_once_per_step(uri, folder, ledger, read) -> None:
    write(uri, folder, ledger)
    run_id = read()["0000"].info.run_id
    assert sorted(file.split("+timestamp")[0] for file in image_files(uri, run_id) if file.endswith(".png")) == [
        "images/samples+step+0",
        "images/samples+step+2",
    ]
    again = [*ledger, trial_started("0000", 30), samples(31, 0), samples(32, 2000)]
    before = image_files(uri, run_id)
    write(uri, folder, again)
    assert image_files(uri, run_id) == before


def test_the_study_run_carries_leaderboard_and_winner(uri, folder, ledger, read) -> None:
    write(uri, folder, ledger)
    run = read()[""]
    client = Store(uri, "mu", folder).client
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"leaderboard.json", "study.yaml", "environment.txt", "provenance.json"}
    assert json.loads(artifact(uri, run.info.run_id, "provenance.json")) == PROVENANCE
    assert run.data.tags["gcsearch.kind"] == "study"
    assert run.data.tags["gcsearch.winner"] == "0000"
    assert run.data.tags["gcsearch.winner.mu"] == "0.3142"
    assert run.data.metrics == {"best/fid": 10.0}
    assert "| 1 | 0000 | 10 | 4000 | 0.3142 |" in run.data.tags["mlflow.note.content"]


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


def test_artifacts_lie_beside_the_database(uri, folder, tmp_path) -> None:
    write(uri, folder, [started()], study="a study: µ/λ 50% 'quoted'")
    store = Store(uri, "a study: µ/λ 50% 'quoted'", folder)
    location = store.client.get_experiment(store.experiment_id).artifact_location
    assert location.startswith((tmp_path / "mlartifacts").as_uri())
    assert len(list((tmp_path / "mlartifacts").rglob("study.yaml"))) == 1


def test_links_open_the_pages_of_the_study(uri, folder, ledger) -> None:
    tracker = write(uri, folder, ledger)
    links = dict(tracker.links("http://127.0.0.1:5123/"))
    assert all(url.startswith("http://127.0.0.1:5123/#/") for url in links.values())
    assert tracker.run_ids["0000"] in links["parallel coordinates"]
    assert tracker.run_ids[""] not in links["parallel coordinates"]


def test_the_page_shows_what_varies_and_the_objective(uri, folder, ledger) -> None:
    write(uri, folder, ledger)
    store = Store(uri, "mu", folder)
    page = json.loads(store.client.get_experiment(store.experiment_id).tags["mlflow.sharedViewState.gcsearch"])
    assert page["orderByKey"] == "metrics.`eval/fid`"
    assert page["orderByAsc"] is True
    assert [column for column in page["selectedColumns"] if column.startswith("params")] == [
        "params.`mu`",
        "params.`timesteps`",
        "params.`optimizer`",
        "params.`lr`",
    ]
    sections = {section["uuid"] for section in page["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in page["compareRunCharts"]} == sections
    assert len({chart["uuid"] for chart in page["compareRunCharts"]}) == len(page["compareRunCharts"])


def test_odd_names_are_made_legal(uri, folder, read) -> None:
    params = {"coupling.µ@(x)": 0.5, "a//b": "x", "../up": 1, "data.path": "/tmp/ä b,c"}
    events = [started(), trial_started("0000", 1, params=params, config={"päth": "x" * 9000, "a=b": None})]
    events.append(result("0000", 2, 1499, 3.0, **{"eval/f@d,(x)": 1.0, "//": 2.0}))
    write(uri, folder, events)
    run = read()["0000"]
    assert run.data.params["µ__x_"] == "0.5"
    assert len(run.data.params[f"{CONFIG_PREFIX}päth"]) == 6000
    assert run.data.metrics["eval/f_d__x_"] == 1.0
    assert history(uri, run.info.run_id, "eval/fid")[0][1] == 1


def test_on_event_returns_at_once(uri, folder, ledger) -> None:
    tracker = MLflowTracker(uri, folder, "mu")
    begin = time.perf_counter()
    for one in ledger:
        tracker.on_event(one)
    assert (time.perf_counter() - begin) / len(ledger) < 1e-3
    tracker.close(30)
    tracker.on_event(ledger[0])
    assert tracker.num_unwritten == 0


def test_every_state_has_a_status() -> None:
    states = {"running", "completed", "stopped", "diverged", "failed", "interrupted"}
    assert set(STATUS) == states
    assert trial_update([ended("0000", 1, "stopped")], {}).status == "FINISHED"


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, logger="gcsearch"):
        yield
