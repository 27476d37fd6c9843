"""Trials and trainings over several processes on a real local Ray: stopped, failing, killed, without a place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from gcsearch.config import load_experiment
from gcsearch.ledger import LEDGER_NAME, StudyState, read_events
from gcsearch.training import Trainer, load_checkpoint

pytestmark = pytest.mark.slow

EXPERIMENT = """\
name: tiny
data: {name: digits}
network: {name: mlp, width: 16}
optimizer: {name: adam, lr: 1e-2}
training: {num_images: 2_048, batch_size: 32}
evaluation: {every_images: 512, num_samples: 64, metrics: [fid]}
"""

STUDY = """\
name: small
experiment: tiny
space:
  optimizer.lr: {min: 1e-4, max: 1e-1, scale: log}
budget: {trials: TRIALS}
search: {sampler: random, start_from: [{optimizer.lr: 1e-2}, {optimizer.lr: 1e-3}, {optimizer.lr: 2e-2}]}
stopping: {name: asha, variant: stopping, min_images: 512, factor: 2}
resources: {workers: 2, max_failures: FAILURES}
"""

SCRIPT = """\
import contextlib, json, sys, time
from pathlib import Path

from gcsearch.errors import GCSearchError
from gcsearch.tuning import cluster, study
from gcsearch.tuning.spec import load_study

folder, held, patience = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])


class Holder:
    def is_there(self):
        return True


@contextlib.contextmanager
def watched(address, start=cluster.ray_cluster):
    with start(address) as nodes:
        import ray
        from ray.util.placement_group import placement_group_table

        from gcsearch.tuning import execution

        execution.PLACE_TIMEOUT_S = patience
        if held:
            holder = ray.remote(num_cpus=held)(Holder).remote()
            ray.get(holder.is_there.remote())
        yield nodes
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            places = [one for one in placement_group_table().values() if one["state"] != "REMOVED"]
            free = ray.available_resources().get("CPU")
            if not places and free == ray.cluster_resources()["CPU"]:
                break
            time.sleep(0.2)
        (folder / "end.json").write_text(json.dumps({"places": len(places), "free": free}))


if __name__ == "__main__":
    study.ray_cluster = watched
    try:
        study.run_study(load_study(folder / "study.yaml"), folder / "studies")
    except GCSearchError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


class Runs:
    """Runs commands in processes of their own, with a folder for their Ray, and leaves none behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ray = Path(tempfile.mkdtemp(prefix="gcs-", dir="/tmp"))  # short: sockets live in it
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "experiments").mkdir()
        (folder / "experiments" / "tiny.yaml").write_text(EXPERIMENT)
        (folder / "run.py").write_text(SCRIPT)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=os.environ | {"RAY_TMPDIR": str(self.ray)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def study(self, trials: int, failures: str = "1", held: int = 0, patience: int = 300, **environment: str):
        text = STUDY.replace("TRIALS", str(trials)).replace("FAILURES", failures)
        (self.folder / "study.yaml").write_text(text)
        return self.start("run.py", str(self.folder), str(held), str(patience), **environment)

    @property
    def directory(self) -> Path:
        return self.folder / "studies" / "small"

    def events(self):
        return read_events(self.directory / LEDGER_NAME)

    def left_over(self, word: str = "") -> list[int]:
        """Processes that belong to our Ray: its folder is in their command line or environment."""
        mark, found = str(self.ray).encode(), []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes()
                if mark in command + (process / "environ").read_bytes() and word.encode() in command:
                    found.append(int(process.name))
        return found

    def wait_until_gone(self) -> None:
        deadline = time.monotonic() + 30
        while self.left_over() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not self.left_over()

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait(timeout=10)
        deadline = time.monotonic() + 15
        while self.left_over() and time.monotonic() < deadline:
            time.sleep(0.5)
        for number in self.left_over():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        shutil.rmtree(self.ray, ignore_errors=True)


@pytest.fixture
def runs(tmp_path):
    running = Runs(tmp_path)
    yield running
    running.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Metrics of the first trial, trained by one process."""
    path = tmp_path_factory.mktemp("alone") / "tiny.yaml"
    path.write_text(EXPERIMENT)
    return [(result.images, result.metrics) for result in Trainer(load_experiment(path)).fit().results]


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


def wait_for_result(ledger: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while not (ledger.exists() and any(event["event"] == "result" for event in read_events(ledger))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check_results(results, alone):
    assert [result.images for result in results] == [images for images, _ in alone]
    for result, (_, metrics) in zip(results, alone, strict=True):
        assert result.metrics["eval/fid"] == pytest.approx(metrics["eval/fid"], rel=1e-3)
        assert result.metrics["train/loss"] == pytest.approx(metrics["train/loss"], rel=1e-4)
        assert result.metrics["cost/forward_units"] == metrics["cost/forward_units"]


def check_nothing_left(runs) -> None:
    assert json.loads((runs.folder / "end.json").read_text()) == {"places": 0, "free": os.cpu_count()}
    runs.wait_until_gone()


def strike(runs, how: signal.Signals, process: subprocess.Popen[str]) -> None:
    """Send a signal to a worker of the first trial after its first result."""
    wait_for_result(runs.directory / LEDGER_NAME, process)
    workers = runs.left_over("ray::RayTrainWorker")
    assert len(workers) == 2
    os.kill(max(workers), how)


def check_first_trial_went_on(runs, alone, num_losses: range, *, is_hung: bool) -> None:
    """Whether it was lost, and goes on from its checkpoint to what it would have been."""
    events = [event for event in runs.events() if event.get("trial") == "0000"]
    record = StudyState(runs.events()).trials["0000"]
    assert record.state == "completed", record.reason
    reasons = [event["reason"] for event in events if event["event"] == "trial_lost"]
    assert len(reasons) in num_losses
    assert all(reason.startswith("it hung, and was ended") == is_hung for reason in reasons)
    assert [event["event"] for event in events].count("result") == 4
    check_results(record.results, alone)


def test_a_study_of_two_workers_a_trial_survives_one_that_is_killed_finishes_and_leaves_nothing(runs, alone):
    spoilt = runs.directory / "trials" / "0002"
    spoilt.mkdir(parents=True)
    (spoilt / "samples").write_text("a file where the sample grids should go")
    process = runs.study(trials=4)
    strike(runs, signal.SIGKILL, process)
    finish(process)
    check_first_trial_went_on(runs, alone, range(1, 2), is_hung=False)
    state = StudyState(runs.events())
    assert state.ended
    # The fourth trial got the place of a trial that was stopped and of one that failed.
    assert [record.state for record in state.trials.values()][:3] == ["completed", "stopped", "failed"]
    assert state.trials["0003"].state in ("completed", "stopped")
    assert "samples" in state.trials["0002"].reason
    assert state.trials["0002"].reason.split(":")[0] in ("FileExistsError", "NotADirectoryError")
    assert state.trials["0002"].losses == 0, "an error of the training is not tried again"
    assert state.trials["0000"].config["training"]["num_workers"] == 2
    assert state.trials["0001"].images == 512
    assert set(state.trials["0000"].samples) == {0, 512, 1024, 1536, 2048}
    check_nothing_left(runs)


def test_a_trial_whose_worker_hangs_goes_on_from_its_checkpoint(runs, alone):
    process = runs.study(trials=1, failures="3, hang_minutes: 0.5")
    strike(runs, signal.SIGSTOP, process)
    finish(process)
    check_first_trial_went_on(runs, alone, range(1, 4), is_hung=True)
    check_nothing_left(runs)


@pytest.mark.parametrize("held", [1, 2])
def test_a_study_that_finds_no_place_says_so_and_goes_on_later(runs, held):
    # With one core held, the trial's own process starts and its workers do not; with both, nothing does.
    cores = os.cpu_count() - 2 + held
    process = runs.study(trials=1, held=cores, patience=10, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="10")
    output = finish(process, code=1)
    assert "StudyError: resources: a trial must find a place within" in output
    assert "its 2 worker(s), each with 1 CPU, found none" in output
    state = StudyState(runs.events())
    assert [record.state for record in state.trials.values()] == ["interrupted"]
    assert state.trials["0000"].losses == 0
    runs.wait_until_gone()


COMMAND = ["-m", "gcsearch.cli.main", "train", "tiny", "--output", "out", "--json"]


def test_ctrl_c_ends_a_training_soon_and_it_goes_on_in_one_process(runs):
    command = [*COMMAND, "--set", "training.num_images=51200"]
    process = runs.start(*command, "--workers", "2")
    ledger = runs.folder / "out" / LEDGER_NAME
    wait_for_result(ledger, process)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    finish(process, code=130)
    assert time.monotonic() - started < 30
    events = read_events(ledger)
    assert [event["event"] for event in events][-2:] == ["trial_ended", "study_interrupted"]
    known = StudyState(events).trials["0000"].images
    assert StudyState(events).trials["0000"].state == "interrupted"
    assert 512 <= known < 51_200
    runs.wait_until_gone()
    finish(runs.start(*command, "--workers", "1"))
    state = StudyState(read_events(ledger))
    assert (state.ended, state.trials["0000"].state) == (True, "completed")
    reported = [event["images"] for event in read_events(ledger) if event["event"] == "result"]
    assert reported == list(range(512, 51_201, 512)), "no rung is missing, and none is there twice"


def test_the_command_trains_with_workers_and_goes_on_without(runs, alone):
    output = finish(runs.start(*COMMAND, "--workers", "2"))
    assert '"completed"' in output
    events = read_events(runs.folder / "out" / LEDGER_NAME)
    record = StudyState(events).trials["0000"]
    check_results(record.results, alone)
    assert [event["event"] for event in events][-2:] == ["trial_ended", "study_ended"]
    before = load_checkpoint(runs.folder / "out" / "checkpoints" / "latest.pt")
    finish(runs.start(*COMMAND, "--workers", "1"))
    after = load_checkpoint(runs.folder / "out" / "checkpoints" / "latest.pt")
    assert before.step == after.step == 64
    output = finish(runs.start(*COMMAND, "--workers", "3"), code=2)
    assert "training.batch_size must be a multiple of num_workers = 3, got 32" in output
    output = finish(runs.start(*COMMAND, "--workers", "32"), code=2)
    assert "a trial of 32 workers must fit into the cluster" in output
    runs.wait_until_gone()
