"""What `gcsearch doctor` says of machines that can and cannot do the work. Ray is started in the slow test only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from gcsearch.cli.doctor import doctor_command
from gcsearch.data.inventory import check_data
from gcsearch.errors import ConfigError
from gcsearch.findings import Finding
from gcsearch.metrics import inception
from gcsearch.tracking.check import check_tracking
from gcsearch.training import machine
from gcsearch.tuning import check
from gcsearch.tuning.check import check_ray


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Everything that is looked at lies in an empty folder, and Ray is not started."""
    monkeypatch.setenv("GCSEARCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("GCSEARCH_INCEPTION", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(check, "check_ray", lambda *_: Finding(name="Ray", state="ok", found="Ray"))
    monkeypatch.setattr(machine, "MIN_FREE_GB", 0.0)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    return tmp_path


def test_an_empty_machine_can_work_and_is_told_what_is_missing(alone, capsys):
    assert doctor_command(None, None, str(alone / "studies"), as_json=True) == 0
    answer = json.loads(capsys.readouterr().out)
    states = {one["name"]: one["state"] for one in answer["checks"]}
    assert answer["ok"] is True
    assert states == {
        "torch": "ok",
        "GPU": "ok" if torch.cuda.is_available() else "missing",
        "Ray": "ok",
        "MLflow": "ok",
        "disk": "ok",
        "data": "missing",
        "Inception": "missing",
    }
    assert all(one["advice"] for one in answer["checks"] if one["state"] != "ok")
    assert list(alone.iterdir()) == [], "looking leaves nothing behind"


def test_what_is_broken_ends_with_2_and_says_what_to_do(alone, capsys, monkeypatch):
    monkeypatch.setenv("GCSEARCH_INCEPTION", str(alone / "none.pth"))
    monkeypatch.setattr(machine, "MIN_FREE_GB", 1e9)
    assert doctor_command(None, "some/folder", str(alone), as_json=False) == 2
    text = " ".join(capsys.readouterr().out.split())
    assert "MLflow: tracking: the URI must be a database or a server" in text
    assert "disk: Free 1e+09 GB, or put --studies on another disk" in text
    assert "Inception: Only scores that papers report need it" in text
    assert "Nothing stops the work" not in text


def test_a_file_that_is_not_the_published_weights_is_broken(alone, monkeypatch):
    path = alone / "weights.pth"
    path.write_bytes(b"something else")
    monkeypatch.setenv("GCSEARCH_INCEPTION", str(path))
    finding = inception.check_weights()
    assert (finding.state, finding.found) == ("broken", f"{path} is not the published file")
    monkeypatch.setattr(inception, "SHA256", inception._file_sha256(path, 0, 0))
    assert inception.check_weights().state == "ok"


def test_a_store_that_is_no_database_does_not_answer(alone):
    path = alone / "mlflow.db"
    path.write_text("not a database" * 100)
    finding = check_tracking(f"sqlite:///{path}")
    assert finding.state == "broken"
    assert "does not answer" in finding.found


def test_a_damaged_data_set_is_broken(alone):
    folder = alone / "data"
    folder.mkdir()
    (folder / "cifar10-abc.arrow").write_text("half a file")
    finding = check_data(folder)
    assert finding.state == "broken"
    assert "damaged: " + str(folder / "cifar10-abc.arrow") in finding.found


def test_a_driver_without_a_gpu_in_torch_is_broken(alone, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.check_gpu().state == "missing"
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    finding = machine.check_gpu()
    assert finding.state == "broken"
    assert "torch sees no GPU" in finding.found


def test_a_folder_that_does_not_exist_is_judged_by_the_disk_it_would_be_on(alone, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(3e9 if path == alone else 0))
    assert machine.check_disk(alone / "a" / "b").found == f"3 GB free in {alone}"


def test_ray_that_does_not_start_or_answer_is_broken(monkeypatch):
    def fail(error):
        def start(_):
            raise error

        monkeypatch.setattr(check, "ray_cluster", start)

    fail(RuntimeError("no memory\nmore"))
    finding = check_ray(None)
    assert finding.state == "broken"
    assert finding.found.endswith("does not start: no memory")
    fail(ConfigError("--address auto: no Ray cluster answers there."))
    assert check_ray("auto").advice == "--address auto: no Ray cluster answers there."


@pytest.mark.slow
def test_the_command_looks_at_ray_too(tmp_path):
    command = [sys.executable, "-m", "gcsearch.cli.main", "doctor", "--studies", str(tmp_path), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert "starts on this machine" in checks["Ray"]["found"], done.stderr
    assert done.returncode == (2 if any(one["state"] == "broken" for one in checks.values()) else 0)
    assert list(Path(tmp_path).iterdir()) == []
