"""`gcsearch import-config` as a user meets it."""

import json
import sys
from pathlib import Path
from unittest import mock

import pytest

from gcsearch.cli.main import main
from gcsearch.config import load_experiment, read_document

PUBLISHED = Path(__file__).parents[1] / "config" / "published"
CIFAR10 = str(PUBLISHED / "cifar10_GC_mix50.yaml")


@pytest.fixture
def import_config(capsys, tmp_path, monkeypatch):
    """Runs the command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = 0
        with mock.patch.object(sys, "argv", ["gcsearch", "import-config", *arguments]):
            try:
                main()
            except SystemExit as end:
                code = end.code
        return code or 0, *capsys.readouterr()

    return run


def test_the_experiment_goes_to_stdout_and_the_remarks_to_stderr(import_config, tmp_path):
    code, out, err = import_config(CIFAR10)
    assert code == 0
    (tmp_path / "printed.yaml").write_text(out)
    assert read_document(tmp_path / "printed.yaml").data["coupling"] == {
        "name": "generator",
        "mu": 0.5,
        "predictor": "ema",
    }
    assert "# train_config.mix_gen_induced_traj: 0.5 -> coupling.mu: 0.5. That code generates" in out
    for part in (
        "Mapped:",
        "Without effect there, and left out:",
        "ngpu: 1",
        "-> training.num_images: 51200000",
    ):
        assert part in err


def test_output_writes_a_file_that_loads(import_config, tmp_path):
    code, out, _ = import_config(CIFAR10, "--output", "new/cifar.yaml")
    assert (code, out) == (0, "Saved: new/cifar.yaml\n")
    experiment = load_experiment(tmp_path / "new" / "cifar.yaml", ["data.name=digits", "evaluation.num_samples=64"])
    assert experiment.training.num_steps == 100_000


def test_json_holds_experiment_and_remarks(import_config):
    code, out, err = import_config(CIFAR10, "--json")
    data = json.loads(out)
    assert (code, err, list(data)) == (0, "", ["experiment", "notes"])
    assert data["experiment"]["training"]["num_images"] == 51_200_000
    assert all(set(note) == {"kind", "key", "value", "here", "becomes", "why"} for note in data["notes"])
    mu = next(note for note in data["notes"] if note["here"] == "coupling.mu")
    assert (mu["kind"], mu["value"], mu["becomes"]) == ("mapped", 0.5, 0.5)


def test_a_name_is_printed_as_it_is(import_config, tmp_path):
    text = Path(CIFAR10).read_text().replace("name_exp: cifar10_GC_mix50", "name_exp: ':smile: [bold]x[/bold]'")
    (tmp_path / "named.yaml").write_text(text)
    code, out, err = import_config("named.yaml")
    (tmp_path / "printed.yaml").write_text(out)
    assert code == 0
    assert read_document(tmp_path / "printed.yaml").data["name"] == ":smile: [bold]x[/bold]"
    assert ":smile: [bold]x[/bold]" in err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nothing.yaml"], "no such file"),
        (["."], "is a folder"),
        (["broken.yaml"], "is not valid YAML"),
        (["list.yaml"], "must be a mapping of keys"),
        (["empty.yaml"], "is empty"),
        (["bytes.yaml"], "cannot be read as text"),
        (["ours.yaml"], "needs no import"),
        (["copy.yaml", "--output", "copy.yaml"], "is the file that is imported"),
        (["copy.yaml", "--output", "."], "is a folder"),
        (["copy.yaml", "--output", "list.yaml/out.yaml"], "cannot be written"),
    ],
    ids=" ".join,
)
def test_a_mistake_gets_one_clear_line_and_exit_code_2(import_config, tmp_path, arguments, part):
    copy = Path(CIFAR10).read_text()
    (tmp_path / "copy.yaml").write_text(copy)
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00a")
    (tmp_path / "ours.yaml").write_text("name: a\ndata: {name: digits}\n")
    code, out, err = import_config(*arguments)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert part in err
    assert (tmp_path / "copy.yaml").read_text() == copy
