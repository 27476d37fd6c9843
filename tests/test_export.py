"""What is handed over: an export tells where it comes from, draws and trains the same, and a study is two frames."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import gcsearch
from gcsearch.analysis.results import open_results
from gcsearch.config import Experiment, load_experiment
from gcsearch.config.documents import dump_yaml
from gcsearch.errors import CheckpointError, ConfigError, StudyError
from gcsearch.export import export_trial
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, read_events
from gcsearch.science.samplers import Gamma
from gcsearch.training.session import run_training

from .cli.command import gcsearch as command

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": "digits",
    "network": {"name": "mlp", "width": 16},
    "process": {"name": "ve", "sigma_data": 0.75},
    "training": {"num_images": 2_000, "batch_size": 32},
    "evaluation": {"every_images": 1_000, "num_samples": 64, "seed": 5, "metrics": ["fid"]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished training, and a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        directory = tmp_path_factory.mktemp("run")
        run_training(Experiment.from_dict(TINY), directory)
        yield directory


@pytest.fixture(scope="module")
def export(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export, moved to a folder that has nothing else."""
    made, moved = run / "export", tmp_path_factory.mktemp("elsewhere") / "handed over"
    export_trial(open_results(run), made)
    shutil.move(made, moved)
    return moved


def test_an_export_says_where_it_comes_from(run: Path, export: Path) -> None:
    (record,) = open_results(run).state.trials.values()
    provenance = json.loads((export / "provenance.json").read_text())
    reference = record.results[-1].identities["eval/fid"].split("reference=digits@")[1]
    assert provenance["data"] == {"name": "digits", "sha256_start": reference[:12], "num_examples": 1797}
    assert provenance["seeds"] == {"experiment": 0, "evaluation": 5}
    assert set(provenance) >= {"versions", "python", "platform", "hardware", "git", "command", "metrics", "identities"}

    config = json.loads((export / "config.json").read_text())
    assert Experiment.from_dict(config["experiment"]) == load_experiment(export / "best.yaml")
    network = gcsearch.load(export).function.network
    assert config["num_parameters"] == sum(tensor.numel() for tensor in network.state_dict().values())

    recipe = (export / "best.yaml").read_text()
    assert recipe.startswith("# Trial 0000 of the study 'tiny': FID (digits features) ")
    card = (export / "MODEL_CARD.md").read_text()
    for heading in ("Score", "Recipe", "Data", "Use", "Limits", "Licence", "Sources"):
        assert f"\n## {heading}\n" in card
    assert record.results[-1].identities["eval/fid"] in card
    assert card.startswith("---\nlibrary_name: gcsearch\n")
    assert "license: other" in card


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ([], {}),
        (["--steps", "2", "--seed", "0"], {"steps": 2, "seed": 0}),
        (["--steps", "4"], {"steps": 4}),
        (["--levels", "2.0,0.5"], {"levels": [2.0, 0.5]}),
    ],
    ids=str,
)
def test_python_draws_what_the_command_draws(
    export: Path, tmp_path: Path, options: list[str], arguments: dict[str, Any]
) -> None:
    done = command("sample", str(export), "--num", "5", "--output", str(tmp_path / "images"), *options)
    assert done.returncode == 0, done.stderr
    samples = gcsearch.load(export).sample(5, **arguments)
    assert (samples.shape, samples.dtype) == ((5, 1, 8, 8), torch.uint8)
    for index, sample in enumerate(samples):
        with Image.open(tmp_path / "images" / f"{index:06d}.png") as image:
            assert image.convert("L").tobytes() == sample.numpy().tobytes()


@pytest.fixture
def two_levels(tmp_path: Path) -> Path:
    """Export of a network that is told two levels, with random weights."""
    experiment = Experiment.from_dict(TINY | {"objective": {"name": "ctm", "num_levels": 6, "solver_steps": 2}})
    folder = tmp_path / "ctm"
    folder.mkdir()
    (folder / "best.yaml").write_text(dump_yaml(experiment.to_dict()))
    save_file(experiment.new_network(seed=0).state_dict(), folder / "model.safetensors")
    return folder


def test_gamma_is_the_sampler_of_networks_that_are_told_two_levels(two_levels: Path, tmp_path: Path) -> None:
    model, folder = gcsearch.load(two_levels), tmp_path / "samples"
    for gamma in (0.0, 0.5):
        options = ["--num", "3", "--levels", "2.0,0.5", "--gamma", str(gamma), "--output", str(folder)]
        done = command("sample", str(two_levels), *options)
        assert done.returncode == 0, done.stderr
        expected = model.draw(3, seed=5, sampler=Gamma(levels=(2.0, 0.5), gamma=gamma))
        torch.testing.assert_close(model.sample(3, levels=[2.0, 0.5], gamma=gamma), expected, rtol=0, atol=0)
        for index, sample in enumerate(expected):
            with Image.open(folder / f"{index:06d}.png") as image:
                assert image.convert("L").tobytes() == sample.numpy().tobytes()
    assert not torch.equal(expected, model.sample(3, levels=[2.0, 0.5]))
    with pytest.raises(ConfigError, match=r"gamma must be left out for one step, got 0\.5"):
        model.sample(3, gamma=0.5)
    with pytest.raises(ConfigError, match=r"gamma must be in \[0, 1\], got 2"):
        model.sample(3, steps=2, gamma=2.0)


def test_more_samples_change_none_and_the_grid_is_the_evaluations(export: Path, run: Path) -> None:
    model = gcsearch.load(export)
    many = model.sample(9)
    torch.testing.assert_close(model.sample(4), many[:4], rtol=0, atol=0)
    torch.testing.assert_close(model.sample(9, seed=5), many, rtol=0, atol=0)
    checkpoint = gcsearch.load(run / "checkpoints" / "latest.pt")
    torch.testing.assert_close(checkpoint.sample(9), many, rtol=0, atol=0)
    assert not torch.equal(model.sample(9, seed=6), many)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num": 0}, "num must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"levels": [0.1, 0.8]}, "decreasing"),
        ({"levels": []}, "levels must not be empty"),
        ({"levels": [500.0]}, "sigma_max"),
        ({"steps": 2, "gamma": 0.5}, "told one level, as the objective 'consistency' trains it, got 0.5"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_arguments_that_mean_nothing_are_refused(export: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gcsearch.load(export).sample(**arguments)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not an export"):
        gcsearch.load(tmp_path)


def test_an_exported_recipe_trains_to_the_same_curve(run: Path, export: Path, tmp_path: Path) -> None:
    run_training(load_experiment(export / "best.yaml"), tmp_path)
    curves = [gcsearch.open_study(directory).curves for directory in (run, tmp_path)]
    timed = [name for name in curves[0].columns if name.endswith(("seconds", "per_second"))]
    first, second = (curve.drop(columns=[*timed, "time"]) for curve in curves)
    assert len(first) == 2
    assert first.equals(second)


def test_a_study_is_two_frames(run: Path) -> None:
    study = gcsearch.open_study(run)
    (record,) = open_results(run).state.trials.values()
    assert list(study.trials.index) == ["0000"]
    row = study.trials.loc["0000"]
    assert (row["state"], row["rank"], row["images"]) == ("completed", 1, 2000)
    assert row["eval/fid"] == record.results[-1].metrics["eval/fid"]
    assert row["started"] < row["ended"]
    assert list(study.curves["images"]) == [1000, 2000]
    assert list(study.curves["eval/fid"]) == [result.metrics["eval/fid"] for result in record.results]


def test_frames_keep_types_and_leave_out_what_a_trial_does_not_have(run: Path, tmp_path: Path) -> None:
    started = {key: value for key, value in read_events(run / LEDGER_NAME)[0].items() if key != "time"}
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        ledger.append(**started)
    study = gcsearch.open_study(tmp_path)
    assert len(study.trials) == len(study.curves) == 0
    assert {"state", "rank", "started"} <= set(study.trials.columns)
    assert "images" in study.curves
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        for number, params in enumerate([{"optimizer.lr": 1e-3}, {"optimizer.lr": 2e-3, "timesteps": "fixed"}]):
            ledger.append("trial_started", trial=f"{number:04d}", kind="trial", params=params, seed=0)
        ledger.append("result", trial="0001", images=1000, metrics={"eval/fid": 3.5})
    trials = gcsearch.open_study(tmp_path).trials
    assert list(trials["param/optimizer.lr"]) == [1e-3, 2e-3]
    assert list(trials["param/timesteps"].isna()) == [True, False]
    assert list(trials["eval/fid"].isna()) == [True, False]
    assert trials["ended"].isna().all()
    assert trials["rank"].isna().all()
    with pytest.raises(StudyError, match="no such study"):
        gcsearch.open_study(tmp_path / "nothing")


def test_the_example_of_the_documentation_runs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "mlflow.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "open_study" in block)
    monkeypatch.chdir(tmp_path)
    started = {key: value for key, value in read_events(run / LEDGER_NAME)[0].items() if key != "time"}
    with LedgerWriter(tmp_path / "studies" / "mu_schedule" / LEDGER_NAME) as ledger:
        ledger.append(**started)
        for trial, score in (("0000", 3.25), ("0001", 2.125)):
            ledger.append("trial_started", trial=trial, kind="trial", params={"coupling.mu": 0.5}, seed=0)
            ledger.append("result", trial=trial, images=1000, metrics={"eval/fid": score})
            ledger.append("trial_ended", trial=trial, state="completed")
    exec(compile(example, "docs/mlflow.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.index("2.125") < printed.index("3.25")


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, gcsearch; sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'mlflow', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_fresh_process_draws_the_same_images(export: Path, tmp_path: Path) -> None:
    code = (
        "import hashlib, sys, gcsearch\n"
        "samples = gcsearch.load(sys.argv[1]).sample(64, steps=2, seed=0)\n"
        "print(hashlib.sha256(samples.numpy().tobytes()).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(export)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    here = gcsearch.load(export).sample(64, steps=2, seed=0)
    assert done.stdout.strip() == hashlib.sha256(here.numpy().tobytes()).hexdigest()


@pytest.mark.slow
def test_a_registered_export_draws_the_same_images_without_pickle(
    run: Path, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"

    def register(name: str, *more: str) -> dict[str, Any]:
        folder = str(tmp_path / "again")
        options = ["--output", folder, "--register", name, "--tracking", store, "--json", *more]
        done = command("export", str(run), *options)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout)["registered"])

    assert register("tiny digits@champion") == {"name": "tiny digits", "alias": "champion", "version": 1}
    assert register("tiny digits@newest")["version"] == 1  # the same weights

    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    try:
        client = mlflow.MlflowClient()
        version = client.get_model_version_by_alias("tiny digits", "champion")
        assert version.tags["gcsearch.trial"] == "0000"
        assert version.description.startswith("Trial 0000 of the study 'tiny': FID (digits features)")
        logged = client.get_logged_model(version.source.removeprefix("models:/"))
        assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pickle")]
        assert logged.status == "READY"
        model = mlflow.pyfunc.load_model("models:/tiny digits@champion")
        drawn = model.predict({"num": 4, "steps": 2, "seed": 0})
        plain = model.predict({"num": 3})
        with pytest.raises(mlflow.MlflowException):
            model.predict({"num": "many"})
    finally:
        mlflow.set_tracking_uri(before)
    expected = gcsearch.load(export)
    assert drawn.tolist() == expected.sample(4, steps=2, seed=0).tolist()
    assert plain.tolist() == expected.sample(3).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--register", ""], "the name must not be empty"),
        (["--register", "a/b"], "the name must not be empty nor hold /"),
        (["--register", "digits@"], "the alias must consist of"),
        (["--register", "digits@v2"], "not be 'latest' or a version like v1, got 'v2'"),
        (["--register", "digits", "--tracking", "folder"], "the URI must be a database or a server"),
        (["--tracking", "sqlite:///mlflow.db"], "must come with --register"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_registering_gets_one_line(run: Path, tmp_path: Path, options: list[str], message: str) -> None:
    done = command("export", str(run), "--output", str(tmp_path / "export"), *options)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert message in line
