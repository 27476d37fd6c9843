"""What MLflow shows of a ledger: runs, parameters, metrics, artifacts, pages."""

import json
from pathlib import Path

from ruamel.yaml import YAML

from gcsearch.ledger import Event
from gcsearch.tracking.names import CONFIG_PREFIX, PALETTE
from gcsearch.tracking.store import Store
from gcsearch.tracking.view import STATUS, milliseconds, trial_update

from .ledgers import (
    CONFIG,
    PROVENANCE,
    STUDY_ID,
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


def test_the_machines_usage_is_shown_as_mlflows_own_system_metrics(uri, folder, ledger, read) -> None:
    metrics = {"system/cpu_utilization_percentage": 87.5, "system/gpu_0_utilization_percentage": 93.0}
    usage = event("usage", 2.5, trial="0000", images=1499, metrics=metrics)
    write(uri, folder, [*ledger[:3], usage, *ledger[3:]])
    run, base = read()["0000"], milliseconds(ledger[0])
    assert history(uri, run.info.run_id, "system/cpu_utilization_percentage") == [(87.5, 1, base + 2500)]
    assert run.data.metrics["system/gpu_0_utilization_percentage"] == 93.0
    assert run.data.tags["gcsearch.events"] == "8"


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


def test_every_state_has_a_status() -> None:
    states = {"running", "completed", "stopped", "diverged", "failed", "interrupted"}
    assert set(STATUS) == states
    assert trial_update([ended("0000", 1, "stopped")], {}).status == "FINISHED"
