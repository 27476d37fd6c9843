"""The command line as a user meets it: help, errors, exit codes, and what export, sample and train do together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gcsearch.config.documents import dump_yaml

from .command import gcsearch

TINY = {
    "name": "tiny",
    "data": {"name": "digits"},
    "network": {"name": "mlp", "width": 16},
    "process": {"name": "ve", "sigma_data": 0.75},
    "training": {"num_images": 2048, "batch_size": 32},
    "evaluation": {"every_images": 1024, "num_samples": 64, "metrics": ["fid"]},
}


def gcsearch_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as a user does."""
    command = [sys.executable, "-m", "gcsearch.cli.main", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment file and a training run of it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(dump_yaml(TINY))
    done = gcsearch("train", "tiny.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["data", "--help"]])
def test_help_imports_nothing_beside_what_draws_it(tmp_path: Path, command: list[str]) -> None:
    def packages(code: str) -> set[str]:
        code += "\nprint('MODULES', *sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        names = done.stdout.rpartition("MODULES")[2].split()
        return {name if name.startswith("gcsearch") else name.partition(".")[0] for name in names}

    ending = "\ntry:\n    main()\nexcept SystemExit:\n    pass"
    drawing = packages(
        "import sys, typer, rich.logging\nmain = typer.Typer(rich_markup_mode=None)\n"
        "@main.command()\ndef one(number: int = 1): pass\n"
        "@main.command()\ndef two(): pass\nsys.argv = ['bare', 'one', '--help']" + ending
    )
    helping = packages(f"import sys\nsys.argv = ['gcsearch', *{command}]\nfrom gcsearch.cli.main import main" + ending)
    more = helping - drawing - set(sys.stdlib_module_names)
    # Commands are declared in these; what carries a command out is imported when it is called.
    declared = {"main", "options", "console", "data_app", "sample_app", "search_app", "report"}
    assert "gcsearch.cli.main" in more
    assert more <= {"gcsearch", "gcsearch.cli", "gcsearch.errors", *(f"gcsearch.cli.{name}" for name in declared)}


def test_help_names_every_command_and_gives_an_example(tmp_path: Path) -> None:
    text = gcsearch("--help", cwd=tmp_path).stdout
    names = "run plan train show replay export sample evaluate diagnose data import-config sync ui doctor"
    for command in names.split():
        assert command in text
    assert "Example" in gcsearch("run", "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "nothing.yaml"], ["nothing.yaml", "no such file"]),
        (["train", "nothing.yaml"], ["nothing.yaml", "no such file"]),
        (["train", "tiny.yaml", "--set", "coupling.muu=0.3"], ["--set coupling.muu=0.3", "Did you mean 'mu'?"]),
        (["train", "tiny.yaml", "--set", "coupling.mu=1.5"], ["coupling.mu must be in [0, 1], got 1.5"]),
        (["train", "tiny.yaml", "--set", "coupling"], ["key=value"]),
        (["train", "tiny.yaml", "--cpus-per-worker", "0"], ["at least 1"]),
        (["train", "tiny.yaml", "--device", "abacus"], ["auto, cpu or cuda", "abacus"]),
        (["train", "tiny.yaml", "--set", "seed=1"], ["another folder"]),
        (["show", "nothing"], ["no such study"]),
        (["export", "nothing"], ["no such study"]),
        (["export", "runs/tiny", "--trial", "7"], ["no trial 7"]),
        (["sample", "nothing"], ["no such checkpoint"]),
        (["sample", "runs"], ["is not an export"]),
        (["sample", "tiny.yaml"], ["not a readable checkpoint"]),
        (["sample", "runs/tiny/checkpoints/latest.pt", "--levels", "a,b"], ["numbers with commas"]),
        (["sample", "runs/tiny/checkpoints/latest.pt", "--levels", "0.1,0.8"], ["decreasing"]),
        (["sample", "runs/tiny/checkpoints/latest.pt", "--levels", "500"], ["sigma_max"]),
        (["sample", "runs/tiny/checkpoints/latest.pt", "--steps", "2", "--gamma", "0.5"], ["gamma", "told one level"]),
        (["sample", "runs/tiny/checkpoints/latest.pt", "--gamma", "1", "--edit", "denoise"], ["--gamma 1", "denoise"]),
        (["sample", "runs/tiny/checkpoints/latest.pt", "--output", "grid.gif"], [".png"]),
        (["sample", "runs/tiny/checkpoints/latest.pt", "--edit", "inpant"], ["Did you mean 'inpaint'?"]),
        (["sample", "runs/tiny/checkpoints/latest.pt", "--mask", "mask.png"], ["Name an edit"]),
        (["ui"], ["no MLflow store"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_clear_line_and_exit_code_2(folder: Path, arguments: list[str], parts: list[str]) -> None:
    done = gcsearch(*arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    for part in parts:
        assert part.lower() in lines[0].lower()


@pytest.mark.parametrize(
    "arguments", [["train", "tiny.yaml", "--set", "distance=lpips"], ["run", "space.yaml"]], ids=["train", "run"]
)
def test_missing_weights_are_answered_before_anything_is_written(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCSEARCH_LPIPS", str(tmp_path / "nowhere"))
    (tmp_path / "tiny.yaml").write_text(dump_yaml(TINY))
    space = {"experiment": "tiny.yaml", "space": {"distance": {"values": ["l2", "lpips"]}}}
    (tmp_path / "space.yaml").write_text(dump_yaml(space))
    done = gcsearch(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert f"{tmp_path / 'nowhere'}: must hold vgg16-397923af.pth and vgg.pth for the distance 'lpips'" in line
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "space.yaml"}


def test_train_prints_its_score_and_leaves_a_ledger_tables_checkpoints_and_samples(folder: Path) -> None:
    run = folder / "runs" / "tiny"
    expected = ["ledger.jsonl", "config.yaml", "trials.parquet", "curves.parquet", "checkpoints/latest.pt"]
    for name in [*expected, "checkpoints/best.pt", "samples/000000000.png", "samples/000002048.png"]:
        assert (run / name).is_file(), name
    shown = gcsearch("show", "runs/tiny", "--json", cwd=folder)
    data = json.loads(shown.stdout)
    assert [trial["images"] for trial in data["trials"]] == [2048]
    assert data["trials"][0]["state"] == "completed"


def test_training_again_in_the_same_folder_changes_nothing(folder: Path) -> None:
    before = json.loads(gcsearch("show", "runs/tiny", "--json", cwd=folder).stdout)["trials"][0]["metrics"]
    assert gcsearch("train", "tiny.yaml", cwd=folder).returncode == 0
    after = json.loads(gcsearch("show", "runs/tiny", "--json", cwd=folder).stdout)["trials"][0]["metrics"]
    assert after == before


def test_an_export_trains_to_the_same_score_and_samples_the_same_grid(folder: Path) -> None:
    assert gcsearch("export", "runs/tiny", "--output", "handed_over", cwd=folder).returncode == 0
    export = folder / "handed_over"
    names = {path.name for path in export.iterdir()}
    assert names == {
        "best.yaml",
        "config.json",
        "model.safetensors",
        "samples.png",
        "MODEL_CARD.md",
        "provenance.json",
    }

    again = gcsearch("train", "handed_over/best.yaml", "--output", "again", "--json", cwd=folder)
    first = json.loads(gcsearch("show", "runs/tiny", "--json", cwd=folder).stdout)["trials"][0]["metrics"]
    second = json.loads(again.stdout)["trials"][0]["metrics"]
    timed = ("seconds", "per_second")
    assert {key: value for key, value in first.items() if not key.endswith(timed)} == {
        key: value for key, value in second.items() if not key.endswith(timed)
    }

    assert gcsearch("sample", "handed_over", "--output", "grid.png", cwd=folder).returncode == 0
    assert (folder / "grid.png").read_bytes() == (export / "samples.png").read_bytes()
    checkpoint = gcsearch("sample", "runs/tiny/checkpoints/latest.pt", "--output", "grid2.png", cwd=folder)
    assert checkpoint.returncode == 0
    assert (folder / "grid2.png").read_bytes() == (export / "samples.png").read_bytes()


def test_sample_writes_single_images_and_other_steps_and_seeds_differ(folder: Path) -> None:
    model = "runs/tiny/checkpoints/latest.pt"
    assert gcsearch("sample", model, "--num", "3", "--output", "images", cwd=folder).returncode == 0
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["000000.png", "000001.png", "000002.png"]
    grids = []
    for extra in ([], ["--steps", "2"], ["--steps", "4"], ["--seed", "1"]):
        path = folder / f"grid{len(grids)}.png"
        done = gcsearch("sample", model, "--num", "8", "--output", path.name, *extra, cwd=folder)
        assert done.returncode == 0, done.stderr
        grids.append(path.read_bytes())
    assert len(set(grids)) == len(grids)


def test_samples_of_points_are_a_table(tmp_path: Path) -> None:
    points = {**TINY, "name": "points", "data": {"name": "gaussians_1m2m", "num_points": 500}}
    (tmp_path / "points.yaml").write_text(dump_yaml(points))
    assert gcsearch("train", "points.yaml", cwd=tmp_path).returncode == 0
    model = "runs/points/checkpoints/latest.pt"
    assert gcsearch("sample", model, "--num", "5", "--output", "points.csv", cwd=tmp_path).returncode == 0
    rows = (tmp_path / "points.csv").read_text().splitlines()
    assert len(rows) == 5
    assert all(len(row.split(",")) == 2 for row in rows)
    assert gcsearch("export", "runs/points", cwd=tmp_path).returncode == 0


def test_dry_run_shows_the_study_and_starts_nothing(folder: Path) -> None:
    space = {
        "name": "dry",
        "experiment": "tiny.yaml",
        "space": {"coupling.mu": {"min": 0, "max": 1}},
        "stopping": {"name": "asha", "min_images": 1024, "factor": 2},
    }
    (folder / "dry.yaml").write_text(dump_yaml(space))
    done = gcsearch("run", "dry.yaml", "--dry-run", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rungs"] == [1024, 2048]
    assert not (folder / "studies").exists()


@pytest.mark.slow
def test_a_study_runs_extends_exports_and_shows_in_mlflow(folder: Path) -> None:
    space = {
        "name": "small",
        "experiment": "tiny.yaml",
        "budget": {"trials": 3},
        "space": {"coupling.mu": {"min": 0.0, "max": 1.0}, "optimizer.lr": {"min": 1e-4, "max": 1e-2, "scale": "log"}},
        "stopping": {"name": "asha", "min_images": 1024, "factor": 2},
    }
    (folder / "small.yaml").write_text(dump_yaml(space))
    done = gcsearch_process("run", "small.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["trials"]) == 3

    extended = gcsearch_process("run", "small.yaml", "--trials", "4", "--json", cwd=folder)
    assert extended.returncode == 0, extended.stderr
    trials = json.loads(extended.stdout)["trials"]
    assert len(trials) == 4

    changed = gcsearch_process("run", "small.yaml", "--set", "coupling.predictor=online", cwd=folder)
    assert changed.returncode == 2
    assert "predictor" in changed.stderr

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags.get("gcsearch.trial", "study") for run in runs) == [
        "0000",
        "0001",
        "0002",
        "0003",
        "study",
    ]

    winner = next(trial for trial in trials if trial["rank"] == 1)
    assert gcsearch_process("export", "small", cwd=folder).returncode == 0
    again = gcsearch_process("train", "exports/small/best.yaml", "--output", "small_again", "--json", cwd=folder)
    assert json.loads(again.stdout)["trials"][0]["metrics"]["eval/fid"] == winner["metrics"]["eval/fid"]
