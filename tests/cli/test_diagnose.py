"""The command `diagnose` as a user meets it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from gcsearch.analysis import figures
from gcsearch.config import load_experiment
from gcsearch.config.documents import dump_yaml
from gcsearch.data.gaussians import OneToTwoModes
from gcsearch.training import Trainer
from gcsearch.training.diagnosis import Diagnosis

from .command import gcsearch

TINY = {
    "name": "tiny",
    "data": {"name": "gaussians_1m2m", "num_points": 200},
    "network": {"name": "mlp", "width": 8},
    "process": {"name": "ve", "sigma_min": 0.001, "sigma_max": 5.0},
    "coupling": {"name": "generator", "mu": 0.7},
    "training": {"num_images": 64, "batch_size": 16},
    "evaluation": {"every_images": 32, "num_samples": 64, "metrics": ["fid"]},
}
QUICK = ("--num-batches", "2", "--denoiser-steps", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment, a checkpoint of it, and a finished diagnosis of two seeds."""
    folder = tmp_path_factory.mktemp("diagnose")
    (folder / "tiny.yaml").write_text(dump_yaml(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSEARCH_CACHE", str(folder / "cache"))
        Trainer(load_experiment(folder / "tiny.yaml"), directory=folder / "run").fit()
    (folder / "old.pt").write_bytes((folder / "run" / "checkpoints" / "latest.pt").read_bytes())
    content = torch.load(folder / "old.pt", weights_only=True)
    torch.save(content | {"format": 0}, folder / "old.pt")
    with mock.patch.object(figures, "write_figures", return_value=[]):
        code, _, stderr = gcsearch("diagnose", "tiny.yaml", "--seeds", "0,1", *QUICK, cwd=folder)
    assert code == 0, stderr
    return folder


@pytest.fixture
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of so small a diagnosis."""
    monkeypatch.setattr(figures, "write_figures", lambda *_, **__: [])


def test_the_numbers_the_table_and_the_figures_are_there_and_agree(folder: Path) -> None:
    with mock.patch.object(figures, "write_figures", return_value=[]) as draw:
        code, stdout, stderr = gcsearch("diagnose", "tiny.yaml", "--seeds", "0,1", *QUICK, cwd=folder)
    assert code == 0
    assert stderr.count(": read") == 6  # nothing is measured twice
    directory = folder / "diagnoses" / "tiny"
    document = json.loads((directory / "diagnosis.json").read_text())
    assert (document["kind"], document["seeds"], document["ode_flow"]) == ("training", [0, 1], "exact")
    assert document["couplings"] == ["independent", "ot", "generator"]
    assert document["experiment"]["coupling"]["mu"] == 0.7
    assert document["fingerprint"] == load_experiment(folder / "tiny.yaml").fingerprint
    # Each of six arms: two quantities at two evaluations, three at twelve levels; and R exactly, for independent.
    assert len(document["rows"]) == 6 * (2 * 2 + 3 * 12) + 2 * 12
    by_level = [entry for entry in document["curves"] if "sigma" in entry and entry["coupling"] == "generator"]
    assert len(by_level) == 3 * 12
    cost = next(entry for entry in document["summary"] if entry["quantity"] == "transport_cost")
    (line,) = [line for line in stdout.splitlines() if "transport cost" in line]
    assert f"{cost['difference']['mean']:.3g} [{cost['difference']['low']:.3g}, " in line
    assert f"{cost['couplings']['ot']['mean']:.3g} ±" in line
    assert cost["verdict"] in line
    assert "95 % t intervals over 2 seeds" in stdout
    (rows, place), options = draw.call_args
    assert [dataclasses.asdict(row) for row in rows] == document["rows"]
    assert (place, options) == (Path("diagnoses/tiny/figures"), {"subject": "tiny"})


@pytest.mark.usefixtures("_no_figures")
def test_json_is_one_object_the_one_in_the_file(folder: Path) -> None:
    code, stdout, _ = gcsearch("diagnose", "tiny.yaml", "--seeds", "0,1", *QUICK, "--json", cwd=folder)
    assert code == 0
    assert json.loads(stdout) == json.loads((folder / "diagnoses" / "tiny" / "diagnosis.json").read_text())


@pytest.mark.usefixtures("_no_figures")
def test_a_checkpoint_keeps_its_weights_and_one_seed_gets_no_interval(folder: Path) -> None:
    arguments = ["run/checkpoints/latest.pt", "--seeds", "3", "--couplings", "generator,independent", *QUICK]
    code, stdout, stderr = gcsearch("diagnose", *arguments, cwd=folder)
    assert code == 0, stderr
    assert "One seed: no intervals" in stdout
    assert "lower" not in stdout
    document = json.loads((folder / "diagnoses" / "tiny_latest" / "diagnosis.json").read_text())
    assert document["kind"] == "weights"
    assert len(document["weights_sha256"]) == 64
    assert {row["images"] for row in document["rows"]} == {None}
    assert {entry["verdict"] for entry in document["summary"]} == {None}

    # An export holds the same averaged weights, so it gives the same numbers.
    (folder / "export").mkdir()
    save_file(torch.load(folder / arguments[0], weights_only=True)["average"], folder / "export" / "model.safetensors")
    (folder / "export" / "best.yaml").write_text(dump_yaml(TINY))
    assert gcsearch("diagnose", "export", *arguments[1:], cwd=folder)[0] == 0
    exported = json.loads((folder / "diagnoses" / "tiny_export" / "diagnosis.json").read_text())
    assert exported["rows"] == document["rows"]


@pytest.mark.usefixtures("_no_figures")
def test_data_without_a_closed_form_are_measured_by_denoisers_and_the_output_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OneToTwoModes, "ideal_flow", lambda *_: None)
    arguments = ["tiny.yaml", "--seeds", "0", "--couplings", "independent", "--output", "unknown"]
    code, stdout, stderr = gcsearch("diagnose", *arguments, *QUICK, cwd=folder)
    assert code == 0, stderr
    assert "has no closed form" in stdout
    assert "GC" not in stdout.splitlines()[1]
    document = json.loads((folder / "unknown" / "diagnosis.json").read_text())
    assert document["ode_flow"] == "denoiser"


@pytest.mark.usefixtures("_no_figures")
def test_an_interrupted_diagnosis_exits_130_and_goes_on(folder: Path) -> None:
    arguments = ["diagnose", "tiny.yaml", "--seeds", "0,1", "--couplings", "independent", *QUICK, "--output", "again"]
    measure = Diagnosis.arm

    def stop_at_seed_1(self: Diagnosis, coupling: str, seed: int) -> object:
        if seed == 1:
            raise KeyboardInterrupt
        return measure(self, coupling, seed)

    with mock.patch.object(Diagnosis, "arm", stop_at_seed_1):
        code, stdout, stderr = gcsearch(*arguments, cwd=folder)
    assert (code, stdout) == (130, "")
    assert "run the same command again" in stderr
    code, _, stderr = gcsearch(*arguments, cwd=folder)
    assert code == 0
    assert "seed 0: read" in stderr
    assert "seed 1: measured" in stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nothing.yaml"], ["nothing.yaml", "no such file"]),
        (["nothing"], ["experiment 'nothing'"]),
        (["nothing.pt"], ["no such checkpoint"]),
        (["old.pt"], ["not a checkpoint of this version"]),
        (["run"], ["is not an export"]),
        (["run/samples.txt"], ["no file"]),
        (["run/checkpoints/latest.pt", "--set", "seed=1"], ["--set seed=1", "left out"]),
        (["tiny.yaml", "--set", "coupling.muu=1"], ["Did you mean 'mu'?"]),
        (["tiny.yaml", "--couplings", "independent,generater"], ["generater", "Did you mean 'generator'?"]),
        (["tiny.yaml", "--couplings", "ot,ot"], ["none twice"]),
        (["tiny.yaml", "--seeds", "0,-1"], ["whole numbers", "0,-1"]),
        (["tiny.yaml", "--seeds", "1,01"], ["none twice"]),
        (["tiny.yaml", "--num-batches", "1"], ["--num-batches must be at least 2, got 1"]),
        (["tiny.yaml", "--denoiser-steps", "0"], ["--denoiser-steps must be at least 1, got 0"]),
        (["tiny.yaml", "--cpus", "0"], ["--cpus must be at least 1"]),
        (["tiny.yaml", "--device", "abacus"], ["auto, cpu or cuda"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_clear_line_and_exit_code_2(folder: Path, arguments: list[str], parts: list[str]) -> None:
    code, stdout, stderr = gcsearch("diagnose", *arguments, cwd=folder)
    assert code == 2, stderr
    assert stdout == ""
    lines = stderr.strip().splitlines()
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0]
