"""A study on a machine that lacks its data: a Ray node that does not see the folders of the driver.

Two Ray nodes on this machine. The second one runs in a mount namespace of its own, in which the driver's folder of
data, weights and temporary files is empty, and only it has CPUs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcsearch.config import Experiment
from gcsearch.data.folder import Folder
from gcsearch.data.image_set import prepare
from gcsearch.data.store import open_images
from gcsearch.ledger import LEDGER_NAME, StudyState, read_events
from gcsearch.training import Trainer

from .conftest import free_port

NAMESPACE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0,
        reason="this machine gives no mount namespaces, so no folder can be hidden from a node",
    ),
]

SCRIPT = """\
import sys
from pathlib import Path

from gcsearch.tuning.spec import load_study
from gcsearch.tuning.study import run_study

folder, address, *names = sys.argv[1:]
for name in names:
    run_study(load_study(Path(folder, f"{name}.yaml")), Path(folder, "studies"), address=address)
"""


class TwoNodes:
    """A head without CPUs, which sees everything, and a node with two that finds `hidden` empty."""

    def __init__(self, hidden: Path, node_cache: Path) -> None:
        self.ray = Path(tempfile.mkdtemp(prefix="gcs-", dir="/tmp"))  # short: sockets live in it
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("GCSEARCH_")} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": hashlib.sha256(str(self.ray).encode()).hexdigest(),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
        }
        ray = str(Path(sys.executable).with_name("ray"))
        self.processes: list[subprocess.Popen[bytes]] = []
        port, client_port = free_port(), free_port()  # the usual ones may be another test's
        self.address = self.environment["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        head = [ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=0"]
        # The object store is smaller than the default, which would be most of a small machine.
        store = "--object-store-memory=100000000"
        head += [f"--ray-client-server-port={client_port}", f"--temp-dir={self.ray}", "--include-dashboard=false"]
        self._start([*head, store])
        self._wait_for("0.log", "Ray runtime started")
        hide = [*NAMESPACE, "sh", "-c", 'mount -t tmpfs none "$1" && shift && exec "$@"', "sh", str(hidden)]
        join = [ray, "start", "--block", f"--address={self.address}", "--node-ip-address=127.0.0.2", "--num-cpus=2"]
        self.node = self._start([*hide, *join, store], GCSEARCH_CACHE=str(node_cache))
        self._wait_for("1.log", "Ray runtime started")

    def _start(self, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        with (self.ray / f"{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environment | environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        return process

    def _wait_for(self, log: str, words: str) -> None:
        deadline = time.monotonic() + 60
        while words not in (self.ray / log).read_text():
            assert time.monotonic() < deadline, (self.ray / log).read_text()
            time.sleep(0.2)

    def seen_by_node(self, folder: Path) -> list[str]:
        """What the node sees below a folder."""
        enter = ["nsenter", f"--target={self.node.pid}", "--mount", *(() if os.geteuid() == 0 else ("--user",))]
        found = subprocess.run([*enter, "find", str(folder)], capture_output=True, text=True, check=True)
        return found.stdout.split()

    def stop(self) -> None:
        mark = str(self.ray).encode()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in Path("/proc").iterdir():
                with contextlib.suppress(OSError, ValueError):
                    if mark in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                        os.kill(int(process.name), number)
            for started in self.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(started.pid, number)
            time.sleep(2)
        shutil.rmtree(self.ray, ignore_errors=True)


@pytest.fixture
def hidden(tmp_path) -> Path:
    """The driver's folder: image store, a frozen predictor, and temporary files."""
    folder = tmp_path / "driver"
    (folder / "tmp").mkdir(parents=True)
    return folder


@pytest.fixture
def experiment(hidden, monkeypatch) -> Experiment:
    """Grey images of 8 x 8, in the driver's store, and a predictor trained on them."""
    monkeypatch.setenv("GCSEARCH_DATA", str(hidden / "store"))
    monkeypatch.setenv("GCSEARCH_CACHE", str(hidden / "cache"))
    rng = np.random.default_rng(0)
    (hidden / "images").mkdir()
    for index in range(200):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(hidden / "images" / f"{index:03d}.png")
    data = {"name": "folder", "path": str(hidden / "images"), "resolution": 8, "channels": 1}
    prepare(Folder(path=data["path"], resolution=8, channels=1))
    sections = {
        "name": "tiny",
        "data": data,
        "network": {"name": "mlp", "width": 16},
        "optimizer": {"name": "adam", "lr": 1e-2},
        "training": {"num_images": 256, "batch_size": 32},
        "evaluation": {"every_images": 128, "num_samples": 64, "metrics": ["fid"], "extractor": "digits"},
    }
    Trainer(Experiment.from_dict(sections), directory=hidden / "before").fit()
    frozen = {
        "name": "generator",
        "mu": 0.5,
        "predictor": "frozen",
        "checkpoint": str(hidden / "before/checkpoints/latest.pt"),
    }
    return Experiment.from_dict(sections | {"coupling": frozen})


def test_a_node_without_the_files_of_a_study_gets_them_once(experiment, hidden, tmp_path):
    shared, node_cache = tmp_path / "shared", tmp_path / "node"
    (shared / "experiments").mkdir(parents=True)
    (shared / "experiments" / "tiny.yaml").write_text(json.dumps(experiment.to_dict()))
    study = {
        "experiment": "tiny",
        "space": {"optimizer.lr": {"min": 1e-2, "max": 3e-2, "scale": "log"}},
        "search": {"sampler": "random"},
        "stopping": "none",
    }
    for name, workers, trials in (("alone", 1, 3), ("together", 2, 1)):
        sections = {"name": name, "budget": {"trials": trials}, "resources": {"workers": workers}}
        (shared / f"{name}.yaml").write_text(json.dumps(study | sections))
    (shared / "run.py").write_text(SCRIPT)
    nodes = TwoNodes(hidden, node_cache)
    try:
        done = subprocess.run(
            [sys.executable, str(shared / "run.py"), str(shared), nodes.address, "alone", "together"],
            env=nodes.environment
            | {name: str(hidden / path) for name, path in (("TMPDIR", "tmp"), ("GCSEARCH_DATA", "store"))},
            cwd=shared,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # Nothing of the trials lies in the driver's folders on the node, and none of the driver's own is left.
        assert nodes.seen_by_node(hidden) == [str(hidden)]
    finally:
        nodes.stop()
    assert not list((hidden / "tmp").iterdir())

    stored = next((hidden / "store").glob("*.arrow"))
    scores = []
    for name, trials in (("alone", 3), ("together", 1)):
        state = StudyState(read_events(shared / "studies" / name / LEDGER_NAME))
        assert [(record.state, record.reason) for record in state.trials.values()] == [("completed", None)] * trials
        for record in state.trials.values():
            identity = record.results[-1].identities["eval/fid"]
            assert f"reference=folder@{open_images(stored).metadata.sha256[:12]} x200" in identity
        scores.append(state.trials["0000"].results[-1].metrics["eval/fid"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)  # the same recipe, in one process and in two
    copies = [path for path in (node_cache / "copies").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert sorted(path.name for path in copies) == sorted(["latest.pt", stored.name])
    for copy in copies:
        original = stored if copy.name == stored.name else hidden / "before" / "checkpoints" / "latest.pt"
        assert copy.read_bytes() == original.read_bytes()
