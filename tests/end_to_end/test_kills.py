"""A study whose driver is killed again and again, at any instant, comes to the same end as one that never was."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gcsearch.analysis.results import write_tables
from gcsearch.ledger import ENDED, LEDGER_NAME, StudyState, read_events
from gcsearch.tuning.cluster import QUIET

from .conftest import free_port

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
budget: {trials: 12}
search: {sampler: {name: auto, min_observations: 3}, seed: 1}
stopping: {name: asha, min_images: 2_048, factor: 2}
resources: {concurrent: 1}
"""

COMMAND = """\
import os, sys

os.setsid()
os.chdir({folder})
os.environ |= {environment}
os.dup2(os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
os.dup2(1, 2)
sys.argv = ["gcsearch", "run", "study.yaml", "--json", "--address", {address}]

from gcsearch.cli.main import main

main()
"""

KILLS = 20
TIMES = ("cost/train_seconds", "cost/evaluation_seconds", "progress/images_per_second")


class Head:
    """A Ray that outlives the drivers, to save its start: what becomes of a driver's own Ray is tested elsewhere."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gcs-", dir="/tmp"))  # short: sockets live in it
        self.address = f"127.0.0.1:{free_port()}"
        self.environment = QUIET | {
            "RAY_TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": hashlib.sha256(str(self.folder).encode()).hexdigest(),
        }
        node = ["--head", "--node-ip-address=127.0.0.1", f"--port={self.address.split(':')[1]}", "--num-cpus=1"]
        node.append(f"--ray-client-server-port={free_port()}")  # the usual one may be another test's
        limits = ["--include-dashboard=false", "--object-store-memory=100000000", f"--temp-dir={self.folder}"]
        command = [str(Path(sys.executable).with_name("ray")), "start", *node, *limits]
        started = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        if started.returncode != 0:
            self.close()
            raise RuntimeError(started.stdout + started.stderr)

    def close(self) -> None:
        mark = str(self.folder).encode()
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if mark in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


class Runs:
    """Runs the study's command in processes forked from one that has imported everything, to save its seconds."""

    def __init__(self, folder: Path, head: Head) -> None:
        (folder / "experiments").mkdir(parents=True)
        (folder / "experiments" / "tiny.yaml").write_text(EXPERIMENT)
        (folder / "study.yaml").write_text(STUDY)
        settings = {"folder": str(folder), "environment": head.environment, "address": head.address}
        (folder / "command.py").write_text(COMMAND.format(**{key: repr(value) for key, value in settings.items()}))
        self.folder = folder
        self.directory = folder / "studies" / "small"
        self.ledger = self.directory / LEDGER_NAME
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["gcsearch.cli.study", "gcsearch.tuning.execution", "mlflow", "optuna"])

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def start(self) -> BaseProcess:
        process = self.context.Process(target=runpy.run_path, args=(str(self.folder / "command.py"),))
        process.start()
        return process

    def finish(self) -> StudyState:
        process = self.start()
        process.join(300)
        assert process.exitcode == 0, self.output
        return StudyState(read_events(self.ledger))

    def kill_after(self, seconds: float, num_events: int | None = None) -> None:
        """Start the study and kill its driver.

        Args:
            seconds: So long after its start, or after its events.
            num_events: So many events after it has begun with its first trial; None kills it while it starts.
        """
        known = len(read_events(self.ledger))
        process = self.start()

        def is_there() -> bool:
            kinds = [event["event"] for event in read_events(self.ledger)[known:]]
            return "trial_started" in kinds and len(kinds) - kinds.index("trial_started") > (num_events or 0)

        deadline = time.monotonic() + 120
        while num_events is not None and not is_there():
            assert process.is_alive(), self.output
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(seconds)
        assert process.is_alive(), "the study was over before its driver was killed"
        process.kill()
        process.join()


@pytest.fixture
def head(monkeypatch):
    made = Head()
    for name, value in made.environment.items():  # some count before Ray is imported
        monkeypatch.setenv(name, value)
    yield made
    made.close()


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


def test_a_study_killed_twenty_times_ends_like_one_that_was_not(head, tmp_path):
    whole, killed = Runs(tmp_path / "whole", head), Runs(tmp_path / "killed", head)
    expected = whole.finish()
    stream = random.Random(0)
    for number in range(KILLS):
        # Every fourth dies while it starts: before it is connected, while the store is opened, before it has a trial.
        if number % 4 == 3:
            killed.kill_after(stream.uniform(0.0, 3.0))
        else:
            killed.kill_after(stream.uniform(0.0, 0.4), num_events=stream.randrange(6))
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
