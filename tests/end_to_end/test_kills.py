"""A study whose driver is killed again and again, at any instant, comes to the same end as one that never was."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gcsearch.analysis.results import write_tables
from gcsearch.ledger import ENDED, LEDGER_NAME, StudyState, read_events

pytestmark = pytest.mark.slow

EXPERIMENT = """\
name: tiny
data: {name: digits}
network: {name: mlp, width: 16}
optimizer: {name: lion, lr: 1e-3}
training: {num_images: 8_192, batch_size: 32}
evaluation: {every_images: 2_048, num_samples: 64, metrics: [fid]}
"""

STUDY = """\
name: small
experiment: tiny
space:
  coupling.mu: {min: 0.0, max: 1.0}
  optimizer.lr: {min: 5e-4, max: 5e-2, scale: log}
budget: {trials: 16}
search: {sampler: {name: auto, min_observations: 3}, seed: 1}
stopping: {name: asha, min_images: 2_048, factor: 2}
resources: {concurrent: 1}
"""

KILLS = 20
TIMES = ("cost/train_seconds", "cost/evaluation_seconds", "progress/images_per_second")


class Runs:
    """Runs the study's command; every run has a folder for its Ray, and none of them outlives the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rays: list[Path] = []
        (folder / "experiments").mkdir()
        (folder / "experiments" / "tiny.yaml").write_text(EXPERIMENT)
        (folder / "study.yaml").write_text(STUDY)

    @property
    def directory(self) -> Path:
        return self.folder / "studies" / "small"

    @property
    def ledger(self) -> Path:
        return self.directory / LEDGER_NAME

    def start(self) -> subprocess.Popen[str]:
        self.rays.append(Path(tempfile.mkdtemp(prefix="gcs-", dir="/tmp")))  # short: sockets live in it
        return subprocess.Popen(
            [sys.executable, "-m", "gcsearch.cli.main", "run", "study.yaml", "--json"],
            cwd=self.folder,
            env=os.environ | {"RAY_TMPDIR": str(self.rays[-1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> StudyState:
        process = self.start()
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert json.loads(output)
        return StudyState(read_events(self.ledger))

    def kill_after(self, seconds: float, *, of_study: bool) -> None:
        """Start the study and kill its driver so long after the command, or after the driver's first event."""
        process, size = self.start(), self.ledger.stat().st_size if self.ledger.exists() else 0
        deadline = time.monotonic() + 120
        while of_study and not (self.ledger.exists() and self.ledger.stat().st_size > size):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(seconds)
        assert process.poll() is None, "the study was over before its driver was killed"
        process.kill()
        process.communicate()

    def close(self) -> None:
        marks = [str(ray).encode() for ray in self.rays]
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if any(mark in (process / "environ").read_bytes() for mark in marks):
                    os.kill(int(process.name), signal.SIGKILL)
        for ray in self.rays:
            shutil.rmtree(ray, ignore_errors=True)


@pytest.fixture
def make_runs(tmp_path):
    made = []

    def make(name: str) -> Runs:
        (tmp_path / name).mkdir()
        made.append(Runs(tmp_path / name))
        return made[-1]

    yield make
    for runs in made:
        runs.close()


def outcome(state: StudyState):
    """All of a study but its times and its interruptions."""
    return {
        trial: (
            record.params,
            record.config,
            record.state,
            [
                (result.images, {key: value for key, value in result.metrics.items() if key not in TIMES})
                for result in record.results
            ],
        )
        for trial, record in state.trials.items()
    }


def test_a_study_killed_twenty_times_ends_like_one_that_was_not(make_runs):
    whole, killed = make_runs("whole"), make_runs("killed")
    expected = whole.finish()
    stream = random.Random(0)
    for number in range(KILLS):
        # Every fourth dies while it starts: before Ray, while Ray starts, while the store is opened.
        if number % 4 == 3:
            killed.kill_after(stream.uniform(0.0, 6.0), of_study=False)
        else:
            killed.kill_after(stream.uniform(0.0, 2.5), of_study=True)
    state = killed.finish()

    assert state.ended
    assert outcome(state) == outcome(expected)

    events = read_events(killed.ledger)
    ended = [event["trial"] for event in events if event["event"] == "trial_ended" and event["state"] in ENDED]
    assert sorted(ended) == sorted(state.trials), "every trial ended once"
    for trial in state.trials:
        own = [event["event"] for event in events if event.get("trial") == trial and event["event"] != "tracked"]
        assert own[-1] == "trial_ended", "nothing happens after the end"
    results = [(event["trial"], event["images"]) for event in events if event["event"] == "result"]
    assert len(results) == len(set(results)), "no rung was recorded twice"

    # The tables on disk are those of the ledger.
    tables = {name: pq.read_table(killed.directory / name) for name in ("trials.parquet", "curves.parquet")}
    write_tables(killed.directory)
    for name, table in tables.items():
        assert pq.read_table(killed.directory / name).equals(table), name

    # One MLflow run for each trial, and one for the study; each has every result once.
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{(killed.folder / 'mlflow.db').as_posix()}")
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    of_trials = {run.data.tags["gcsearch.trial"]: run for run in runs if run.data.tags["gcsearch.kind"] != "study"}
    assert len(runs) == len(of_trials) + 1
    assert set(of_trials) == set(state.trials)
    for trial, run in of_trials.items():
        history = sorted(client.get_metric_history(run.info.run_id, "eval/fid"), key=lambda point: point.step)
        values = [result.metrics["eval/fid"] for result in state.trials[trial].results]
        assert [point.value for point in history] == pytest.approx(values)
