"""Studies on a real local Ray: finished, killed, interrupted, with trials that fail."""

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

import psutil
import pytest

from gcsearch.config import read_document
from gcsearch.ledger import ENDED, LEDGER_NAME, StudyState, read_events

pytestmark = pytest.mark.slow

EXPERIMENT = """\
name: tiny
data: {name: digits}
network: {name: mlp, width: 16}
optimizer: {name: lion, lr: 1e-3}
training: {num_images: 2_048, batch_size: 32}
evaluation: {every_images: 512, num_samples: 64, metrics: [fid]}
"""

STUDY = """\
name: small
experiment: tiny
space:
  coupling.mu: {min: 0.0, max: 1.0}
  optimizer:
    values:
      - {name: lion, lr: {min: 5e-3, max: 5e-2, scale: log}}
      - {name: adam, lr: {min: 5e-3, max: 5e-2, scale: log}}
budget: {trials: 6}
search: {sampler: {name: auto, min_observations: 3}, seed: 1}
stopping: {name: asha, variant: stopping, min_images: 512, factor: 2}
resources: {concurrent: CONCURRENT}
"""

SCRIPT = """\
import sys
from pathlib import Path

from gcsearch.errors import GCSearchError
from gcsearch.tuning.spec import load_study
from gcsearch.tuning.study import run_study

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        run_study(load_study(folder / "study.yaml"), folder / "studies")
    except GCSearchError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""

HUNGRY = """\
import time
from dataclasses import dataclass
from pathlib import Path

from gcsearch.science.networks.base import networks
from gcsearch.science.networks.mlp import MLP


@networks.register("hungry")
@dataclass(frozen=True, kw_only=True)
class Hungry(MLP):
    def build(self, event_shape):
        eaten = Path(EATEN)
        if not eaten.exists():
            eaten.touch()
            food = b"x" * BYTES
            time.sleep(60)
            raise AssertionError(f"nobody minded {len(food)} bytes")
        return super().build(event_shape)
"""
"""A network whose first trial takes memory until its process is ended."""

TIMES = ("cost/train_seconds", "cost/evaluation_seconds", "progress/images_per_second")


class Studies:
    """Runs studies in processes of their own, each with its own folder for Ray, and leaves none behind."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.rays: list[Path] = []
        self.processes: list[subprocess.Popen[str]] = []
        (tmp_path / "run.py").write_text(SCRIPT)

    def folder(self, name: str, concurrent: str = "1", old: str = "", new: str = "") -> Path:
        """A folder with a study to run."""
        folder = self.tmp_path / name
        (folder / "experiments").mkdir(parents=True)
        (folder / "experiments" / "tiny.yaml").write_text(EXPERIMENT)
        (folder / "study.yaml").write_text(STUDY.replace("CONCURRENT", concurrent).replace(old, new))
        return folder

    def start(self, folder: Path, **environment: str) -> subprocess.Popen[str]:
        """Start the study in a folder, or go on with it."""
        self.rays.append(Path(tempfile.mkdtemp(prefix="gcs-")))  # short: sockets live in it
        process = subprocess.Popen(
            [sys.executable, str(self.tmp_path / "run.py"), str(folder)],
            cwd=folder,
            env=os.environ | {"RAY_TMPDIR": str(self.rays[-1]), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def finish(self, folder: Path) -> StudyState:
        """Run the study in a folder to its end."""
        process = self.start(folder)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
        return StudyState(events_of(folder))

    def left_over(self) -> list[str]:
        """Commands of processes that belong to a Ray of ours: its folder is in their command line or environment."""
        marks = [str(ray).encode() for ray in self.rays]
        found = []
        for process in Path("/proc").iterdir():
            try:
                command = (process / "cmdline").read_bytes()
                if any(mark in command + (process / "environ").read_bytes() for mark in marks):
                    found.append(f"{process.name} {command.replace(bytes(1), b' ').decode(errors='replace')[:150]}")
            except OSError:
                continue
        return found

    def working(self) -> list[str]:
        """Those left that hold memory or cores. Ray's two agents linger for up to a minute after a killed driver."""
        return [line for line in self.left_over() if "Agent" not in line]

    def close(self) -> None:
        """End everything that these studies started."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait(timeout=10)
        deadline = time.monotonic() + 15
        while (left := self.left_over()) and time.monotonic() < deadline:
            time.sleep(0.5)
        for line in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)
        for ray in self.rays:
            shutil.rmtree(ray, ignore_errors=True)


@pytest.fixture
def studies(tmp_path):
    running = Studies(tmp_path)
    yield running
    running.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of a study that ran one trial at a time and was never killed."""
    running = Studies(tmp_path_factory.mktemp("whole"))
    try:
        folder = running.folder("whole")
        running.finish(folder)
        wait_for(lambda: not running.left_over(), 15, "Ray to be gone after its study ended")
        yield folder
    finally:
        running.close()


def ledger_of(folder):
    return folder / "studies" / "small" / LEDGER_NAME


def events_of(folder):
    return read_events(ledger_of(folder))


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what if isinstance(what, str) else what()}"
        time.sleep(0.05)


def wait_for_events(folder, process, count):
    """Wait until a ledger has so many results."""

    def has():
        assert process.poll() is None, process.communicate()[0]
        return ledger_of(folder).exists() and ledger_of(folder).read_text().count('"event": "result"') >= count

    wait_for(has, 240, f"{count} results")


def outcome(state):
    """All of a study but its times."""
    return {
        trial: (
            record.params,
            record.config,
            record.state,
            record.reason,
            [
                (result.images, {key: value for key, value in result.metrics.items() if key not in TIMES})
                for result in record.results
            ],
        )
        for trial, record in state.trials.items()
    }


def check_ledger(folder):
    ended, results = set(), set()
    for event in events_of(folder):
        trial, kind = event.get("trial"), event["event"]
        if kind == "trial_started":
            assert trial not in ended
        if kind == "result":
            assert (trial, event["images"]) not in results
            results.add((trial, event["images"]))
        if kind == "trial_ended" and event["state"] in ENDED:
            assert trial not in ended
            ended.add(trial)
    return ended


def check_files(folder, state):
    directory = folder / "studies" / "small"
    assert read_document(directory / "study.yaml").data["name"] == "small"
    for trial, record in state.trials.items():
        home = directory / "trials" / trial
        assert read_document(home / "config.yaml").data == record.config
        assert (home / "checkpoints" / "latest.pt").stat().st_size > 0
        assert (home / "checkpoints" / "best.pt").stat().st_size > 0
        for path in record.samples.values():
            assert (directory / path).read_bytes().startswith(b"\x89PNG")
        assert set(record.samples) == {0, *[result.images for result in record.results]}


def test_a_study_finishes_and_leaves_all_that_it_promises(whole):
    state = StudyState(events_of(whole))
    assert state.ended
    assert list(state.trials) == [f"{number:04d}" for number in range(6)]
    assert {record.state for record in state.trials.values()} == {"completed", "stopped"}
    assert check_ledger(whole) == set(state.trials)
    check_files(whole, state)
    for record in state.of_state("completed"):
        assert [result.images for result in record.results] == [512, 1024, 1536, 2048]
    assert {record.images for record in state.of_state("stopped")} <= {512, 1024}


def test_a_finished_study_is_extended_a_trial_that_raises_is_recorded_and_the_other_goes_on(studies, whole):
    folder = studies.folder("more", concurrent="auto", old="trials: 6", new="trials: 8")
    shutil.copytree(whole / "studies", folder / "studies")
    trial = folder / "studies" / "small" / "trials" / "0006"
    trial.mkdir()
    (trial / "samples").write_text("a file where the sample grids should go")
    before = ledger_of(folder).read_text()
    extended = studies.finish(folder)
    assert ledger_of(folder).read_text().startswith(before)
    assert check_ledger(folder) == {f"{number:04d}" for number in range(8)}
    failed = extended.trials.pop("0006")
    assert failed.state == "failed"
    assert "samples" in failed.reason
    assert failed.reason.split(":")[0] in ("FileExistsError", "NotADirectoryError")
    assert {record.trial for record in extended.of_state("completed", "stopped")} == set(extended.trials)
    check_files(folder, extended)


def test_a_killed_study_goes_on_as_if_it_had_not_been_killed(studies, whole):
    folder = studies.folder("killed")
    process = studies.start(folder)
    wait_for_events(folder, process, 8)
    process.kill()
    process.wait(timeout=10)
    wait_for(lambda: not studies.working(), 30, lambda: f"Ray to be gone: {studies.working()}")
    assert not StudyState(events_of(folder)).ended
    resumed = studies.finish(folder)
    assert outcome(resumed) == outcome(StudyState(events_of(whole)))
    check_ledger(folder)
    check_files(folder, resumed)


def test_ctrl_c_ends_a_study_soon_and_it_can_go_on(studies):
    folder = studies.folder("a", concurrent="auto", old="trials: 6", new="trials: 8")
    known = 0
    for to in ("driver", "group"):
        process = studies.start(folder)
        wait_for_events(folder, process, known + 3)
        started = time.monotonic()
        if to == "driver":
            process.send_signal(signal.SIGINT)
        else:
            os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert time.monotonic() - started < 10
        assert process.returncode == -signal.SIGINT, output
        events = events_of(folder)
        assert events[-1]["event"] == "study_interrupted"
        known = sum(event["event"] == "result" for event in events)
        states = [record.state for record in StudyState(events).trials.values()]
        assert "interrupted" in states
        assert set(states) <= {"interrupted", "completed", "stopped"}
        wait_for(lambda: not studies.left_over(), 15, "Ray to be gone")
    state = studies.finish(folder)
    assert state.ended
    assert check_ledger(folder) == {f"{number:04d}" for number in range(8)}
    assert {record.state for record in state.trials.values()} == {"completed", "stopped"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_trial_whose_process_dies_or_hangs_goes_on_and_so_do_the_others(studies, whole, how):
    # On a busy machine, more may take these 24 s: hence more failures than one.
    settings = "max_failures: 5, hang_minutes: 0.4" if how == signal.SIGSTOP else "max_failures: 1"
    folder = studies.folder("a", old="concurrent:", new=f"{settings}, concurrent:")
    process = studies.start(folder)
    wait_for_events(folder, process, 1)
    pids = [int(line.split()[0]) for line in studies.left_over() if "ray::ImplicitFunc" in line]
    assert pids  # Tune's own name for the process of a trial
    for pid in pids:
        os.kill(pid, how)
    if how == signal.SIGSTOP:  # now there is time to see that a second driver is refused, and disturbs nothing
        second = studies.start(folder)
        output, _ = second.communicate(timeout=120)
        assert second.returncode == 1
        assert "StudyError" in output
        assert "another process is writing this study" in output
        assert process.poll() is None
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    state = StudyState(events_of(folder))
    assert check_ledger(folder) == set(state.trials)
    lost = [event["reason"] for event in events_of(folder) if event["event"] == "trial_lost"]
    if how == signal.SIGKILL:
        (reason,) = lost
        assert "Actor" in reason
        assert "out of memory" in reason, "what kills a process so is most often that"
    else:
        assert lost
        assert set(lost) == {
            "it hung, and was ended: no step and no report for 0.4 minutes. If it was only slow, raise "
            "resources.hang_minutes"
        }
    assert outcome(state) == outcome(StudyState(events_of(whole)))


def test_a_trial_that_takes_all_memory_is_ended_told_and_tried_again(studies):
    memory = psutil.virtual_memory()
    gigabyte = 2**30
    if memory.available < 12 * gigabyte:
        pytest.skip(f"needs 12 GiB of free memory, has {memory.available / gigabyte:.1f}")
    folder = studies.folder("a", old="trials: 6", new="trials: 2")
    network = HUNGRY.replace("EATEN", repr(str(folder / "eaten"))).replace("BYTES", str(9 * gigabyte))
    (folder / "hungry.py").write_text(network)
    experiment = folder / "experiments" / "tiny.yaml"
    experiment.write_text("imports: [hungry]\n" + experiment.read_text().replace("name: mlp", "name: hungry"))
    # As if the machine had 6 GiB more than is taken now: the study itself takes less than 3, another test may take 3.
    share = (memory.total - memory.available + 6 * gigabyte) / memory.total
    process = studies.start(folder, RAY_memory_usage_threshold=f"{share:.3f}", RAY_memory_monitor_refresh_ms="100")
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    state = StudyState(events_of(folder))
    lost = [event for event in events_of(folder) if event["event"] == "trial_lost"]
    assert [event["trial"] for event in lost] == ["0000"]
    assert lost[0]["reason"].startswith("its process was ended because its machine ran out of memory. Lower")
    assert [record.losses for record in state.trials.values()] == [1, 0]
    assert all(record.state in ("completed", "stopped") for record in state.trials.values())


def test_a_study_that_cannot_be_placed_says_so_and_does_not_wait(studies):
    folder = studies.folder("a", old="concurrent:", new="cpus_per_worker: 1000, concurrent:")
    process = studies.start(folder)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a trial of one worker must fit into the cluster, each worker needs 1000 CPU" in output
    assert json.loads(ledger_of(folder).read_text().splitlines()[-1])["event"] == "study_interrupted"
