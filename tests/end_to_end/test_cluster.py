"""A study on a real cluster of three machines, one of which is killed: see conftest.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gcsearch.ledger import LEDGER_NAME, StudyState, read_events
from gcsearch.training import load_checkpoint

pytestmark = pytest.mark.slow

EXPERIMENT = """\
name: tiny
data: {name: digits}
network: {name: mlp, width: 16}
optimizer: {name: adam, lr: 1e-2}
training: {num_images: IMAGES, batch_size: 32}
evaluation: {every_images: 512, num_samples: 64, metrics: [fid]}
"""

STUDY = """\
name: NAME
experiment: tiny
space:
  optimizer.lr: {min: 5e-3, max: 2e-2, scale: log}
budget: {trials: TRIALS}
search: {sampler: random}
stopping: none
resources: {workers: WORKERS, max_failures: 2}
"""

MEETING = """\
import os, time
from dataclasses import dataclass
from pathlib import Path

from gcsearch.science.networks.base import networks
from gcsearch.science.networks.mlp import MLP


@networks.register("meeting")
@dataclass(frozen=True, kw_only=True)
class Meeting(MLP):
    def build(self, event_shape):
        began = Path(BEGAN)
        began.mkdir(exist_ok=True)
        (began / f"{os.getpid()}-{time.time_ns()}").touch()
        for _ in range(1200):
            if len(list(began.iterdir())) >= 3:
                return super().build(event_shape)
            time.sleep(0.1)
        raise TimeoutError("the trials did not run at the same time")
"""

PLACES = """\
import json, ray
from ray.util.placement_group import placement_group_table
ray.init("auto", log_to_driver=False, logging_level="ERROR")
places = [one for one in placement_group_table().values() if one["state"] != "REMOVED"]
print(json.dumps([len(places), ray.available_resources().get("CPU"), ray.cluster_resources()["CPU"]]))
"""


def write_study(folder: Path, name: str, images: int, trials: int, workers: int) -> None:
    (folder / "experiments").mkdir(exist_ok=True)
    (folder / "experiments" / "tiny.yaml").write_text(EXPERIMENT.replace("IMAGES", str(images)))
    text = STUDY.replace("NAME", name).replace("TRIALS", str(trials)).replace("WORKERS", str(workers))
    (folder / f"{name}.yaml").write_text(text)


def let_trials_meet(folder: Path) -> None:
    """Have each trial wait for two others. Else a machine could end its trial before others, which start more slowly,
    began theirs, and be given those too."""
    (folder / "meeting.py").write_text(MEETING.replace("BEGAN", repr(str(folder / "began"))))
    path = folder / "experiments" / "tiny.yaml"
    path.write_text("imports: [meeting]\n" + path.read_text().replace("name: mlp", "name: meeting"))


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_result(process: subprocess.Popen[str], ledger: Path) -> bool:
    """Whether the study that a process runs has a first result."""
    assert process.poll() is None, process.communicate()[0]
    return ledger.exists() and any(event["event"] == "result" for event in read_events(ledger))


def own_processes(hosts, name: str) -> list[str]:
    """Processes of trials on a machine: those that Ray has not kept for later."""
    words = ("RayTrainWorker", "TrainController", "ImplicitFunc", "gcsearch run")
    return [line for line in hosts.processes(name).values() if any(word in line for word in words)]


def check_files(study: Path, state: StudyState) -> None:
    """Whether all that the trials wrote is in the study's folder, on whatever machine they wrote it."""
    for record in state.trials.values():
        home = study / "trials" / record.trial
        for name in ("latest.pt", "best.pt"):
            assert [one["images"] for one in load_checkpoint(home / "checkpoints" / name).results]
        latest = load_checkpoint(home / "checkpoints" / "latest.pt")
        assert [one["images"] for one in latest.results] == [result.images for result in record.results]
        assert set(record.samples) == {0, *(result.images for result in record.results)}
        for path in record.samples.values():
            assert (study / path).read_bytes().startswith(b"\x89PNG")
    assert not list(study.rglob("*.part"))
    assert not list(study.rglob(".driver-*"))


def scratch(hosts, name: str) -> list[Path]:
    """Folders in which trials work, on a machine that does not see the study's."""
    return list(hosts.own(name)[1].parent.glob("gcsearch-trials/*/trials/*"))


def test_a_job_runs_trials_on_machines_that_do_not_see_its_folder(hosts):
    write_study(hosts.shared, "job", images=2_048, trials=3, workers=1)
    let_trials_meet(hosts.shared)
    inside, folder = hosts.own("head")
    # Ray copies the working folder: the studies are elsewhere.
    command = ["gcsearch", "run", "job.yaml", "--address", "auto", "--studies", f"{inside}/studies"]
    submitted = hosts.start("head", "ray", "job", "submit", "--working-dir", ".", "--", *command)
    used = set()
    deadline = time.monotonic() + 240
    while submitted.poll() is None and time.monotonic() < deadline:
        used |= {name for name in hosts.names if scratch(hosts, name)}
        time.sleep(0.05)
    output, _ = submitted.communicate(timeout=10)
    assert submitted.returncode == 0, output
    study = folder / "studies" / "job"
    state = StudyState(read_events(study / LEDGER_NAME))
    assert [(record.state, record.reason) for record in state.trials.values()] == [("completed", None)] * 3
    check_files(study, state)
    if hosts.are_apart:
        assert used == {"one", "two"}, "where the folder is seen, nothing is copied; elsewhere there is a folder"
    assert not any(scratch(hosts, name) for name in hosts.names)

    tokenless = {"RAY_AUTH_TOKEN_PATH": "", "HOME": str(hosts.shared / "home")}
    output = hosts.run("head", *command, "--name", "other", code=2, **tokenless)
    assert "--address auto: the cluster's token must be known here" in output
    assert "Traceback" not in output


def test_a_machine_outside_runs_a_study_through_ray_client_and_interrupts_it(hosts):
    write_study(hosts.shared, "outside", images=20_480, trials=2, workers=1)
    inside, folder = hosts.own("head")
    address = f"ray://{hosts.address('head')}:10001"
    command = ["gcsearch", "run", "outside.yaml", "--address", address, "--studies", f"{inside}/studies"]
    ledger = folder / "studies" / "outside" / LEDGER_NAME

    process = hosts.start("two", *command)
    wait_until(lambda: has_result(process, ledger), 480)
    [client] = [number for number, line in hosts.processes("two").items() if "gcsearch run" in line]
    os.kill(client, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"to resume:  {' '.join(command)}\n" in output
    events = read_events(ledger)
    assert events[-1]["event"] == "tracked" or events[-1]["event"] == "study_interrupted"
    assert events[0]["provenance"]["command"] == " ".join(command)

    output = hosts.run("two", *command, "--json", timeout=240)
    assert json.loads(output[output.index("{") :])["counts"] == {"completed": 2}
    study = folder / "studies" / "outside"
    state = StudyState(read_events(ledger))
    assert state.ended
    check_files(study, state)
    assert not (hosts.own("two")[1] / "studies").exists()

    output = hosts.run("two", *command[:-1], "studies", code=2)
    assert "--studies: must be a full path on the cluster's head" in output


def test_a_study_survives_the_loss_of_a_machine(hosts):
    write_study(hosts.shared, "lost", images=10_240, trials=2, workers=2)
    inside, folder = hosts.own("head")
    study = folder / "studies" / "lost"
    ledger = study / LEDGER_NAME
    process = hosts.start("head", "gcsearch", "run", "lost.yaml", "--address", "auto", "--studies", f"{inside}/studies")
    wait_until(lambda: has_result(process, ledger), 240)
    places = {name: [line for line in own_processes(hosts, name) if "RayTrainWorker" in line] for name in hosts.names}
    assert sorted(map(len, places.values())) == [0, 1, 1], "the workers are on two machines"
    away = [name for name in ("one", "two") if places[name]]
    # Better the one that writes the checkpoints: the trial goes on from them elsewhere.
    victim = max(away, key=lambda name: len(scratch(hosts, name)))
    hosts.kill(victim)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output

    events = read_events(ledger)
    state = StudyState(events)
    assert state.ended
    assert [(record.state, record.images) for record in state.trials.values()] == [("completed", 10_240)] * 2
    lost = [event["trial"] for event in events if event["event"] == "trial_lost"]
    assert lost == ["0000"]
    for trial in state.trials:
        ends = [event["state"] for event in events if event["event"] == "trial_ended" and event["trial"] == trial]
        assert ends.count("completed") == 1
        rungs = [event["images"] for event in events if event["event"] == "result" and event["trial"] == trial]
        assert rungs == list(range(512, 10_241, 512)), "no rung is missing, and none is there twice"

    check_files(study, state)

    left = hosts.run("head", "python", "-c", PLACES).splitlines()[-1]
    places_left, free, cpus = json.loads(left)
    assert (places_left, free, cpus) == (0, 2, 2)
    wait_until(lambda: not any(own_processes(hosts, name) for name in hosts.names), 20)
