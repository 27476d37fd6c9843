"""`--address ray://…`: what the head of a cluster is asked to do is what the user asked for here."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import pytest

from gcsearch.cli import outside
from gcsearch.config import read_document
from gcsearch.provenance import COMMAND, typed_command
from gcsearch.tuning import head
from gcsearch.tuning.ablation import load_ablation
from gcsearch.tuning.spec import load_study

from .command import gcsearch

STUDY = """\
experiment: tiny
space:
  optimizer.lr: {min: 5e-3, max: 2e-2, scale: log}
budget: {trials: 3}
resources: {workers: 2}
"""
EXPERIMENT = """\
name: tiny
imports: [mine]
data: {name: digits}
network: {name: mlp, width: 16}
training: {num_images: 2048, batch_size: 32}
evaluation: {every_images: 512, num_samples: 64, metrics: [fid]}
"""
MODULE = """\
'''A module of the user's own.'''
"""
ADDRESS = ["--address", "ray://head:10001", "--studies", "/mnt/studies"]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What is asked of the head."""
    monkeypatch.chdir(tmp_path)
    Path("wide.yaml").write_text(STUDY)
    Path("experiments").mkdir()
    Path("experiments/tiny.yaml").write_text(EXPERIMENT)
    Path("experiments/mine.py").write_text(MODULE)
    calls = []

    def run_on_head(address, arguments, files, modules, environment, write):
        calls.append((address, arguments, files, modules, environment))
        write("stdout", "from the head\n")
        return 130

    monkeypatch.setattr(head, "run_on_head", run_on_head)
    yield calls
    sys.modules.pop("mine", None)


def test_the_head_reads_the_study_that_was_read_here(asked, tmp_path):
    options = ["--trials", "5", "--set", "network.width=32", "--tracking", "http://server:5000", "--json"]
    result = gcsearch("run", "wide.yaml", *options, *ADDRESS)
    assert (result.returncode, result.stdout) == (130, "from the head\n")
    [(address, arguments, files, modules, environment)] = asked
    assert address == "ray://head:10001"
    there = tmp_path / "there"
    there.mkdir()
    for name, content in files.items():
        (there / name).write_bytes(content)
    with zipfile.ZipFile(io.BytesIO(modules)) as archive:
        assert archive.read("mine.py").decode() == MODULE
        archive.extractall(there)
    given = dict(zip(arguments[2::2], arguments[3::2], strict=False))
    assert arguments[:2] == ["run", outside.FILE]
    assert (given["--address"], given["--studies"]) == ("auto", "/mnt/studies")
    assert given["--tracking"] == "http://server:5000"
    assert arguments[-1] == "--json"
    received = load_study(
        there / outside.FILE,
        experiment=str(there / given["--experiment"]),
        name=given["--name"],
        trials=int(given["--trials"]),
    )
    local = load_study(Path("wide.yaml"), trials=5, assignments=["network.width=32"])
    assert received.to_dict() == local.to_dict()
    assert received.experiment.fingerprint == local.experiment.fingerprint
    assert local.to_dict()["experiment"]["name"] == "tiny"
    assert read_document(there / outside.EXPERIMENT).data["network"]["width"] == 32
    assert environment[COMMAND] == " ".join(["gcsearch run wide.yaml", *options, *ADDRESS])


def test_the_head_gets_the_factors_that_a_winner_stands_for(asked, tmp_path):
    Path("best.yaml").write_text(EXPERIMENT.replace("width: 16", "width: 24").replace("imports: [mine]", ""))
    Path("path.yaml").write_text("experiment: tiny\nwinner: best.yaml\ndesign: path\n")
    gcsearch("ablate", "path.yaml", "--noise", *ADDRESS)
    [(_, arguments, files, _, _)] = asked
    assert "--noise" in arguments
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "path.yaml").write_bytes(files[outside.FILE])
    received = load_ablation(tmp_path / "there" / "path.yaml", experiment=str(tmp_path / "experiments" / "tiny.yaml"))
    assert received.factors == load_ablation(Path("path.yaml")).factors == {"network.width": [24]}


def test_a_folder_that_means_nothing_on_the_head_is_refused(asked):
    result = gcsearch("run", "wide.yaml", *ADDRESS[:2], "--studies", "studies")
    assert result.returncode == 2
    assert "--studies: must be a full path on the cluster's head, or a URI, with --address ray:" in result.stderr
    assert not asked


def test_a_mistake_in_the_files_is_found_before_the_cluster_is_asked(asked):
    Path("wide.yaml").write_text(STUDY.replace("5e-3", "5"))
    result = gcsearch("run", "wide.yaml", *ADDRESS)
    assert result.returncode == 2
    assert "wide.yaml:3" in result.stderr
    assert not asked


def test_a_command_says_what_was_typed_on_the_other_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/gcsearch", "run", "my space.yaml"])
    assert typed_command() == "gcsearch run 'my space.yaml'"
    monkeypatch.setenv(COMMAND, "gcsearch run there.yaml")
    assert typed_command() == "gcsearch run there.yaml"
