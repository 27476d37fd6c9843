"""`gcsearch evaluate`: a checkpoint gets its recorded number, images get theirs, mistakes get one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gcsearch.analysis.results import open_results
from gcsearch.config import Experiment
from gcsearch.errors import ConfigError, GCSearchError
from gcsearch.evaluation import Report, Request, evaluate
from gcsearch.export import export_trial
from gcsearch.training.session import run_training

from .cli.command import gcsearch

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": "digits",
    "network": {"name": "mlp", "width": 16},
    "process": {"name": "ve", "sigma_data": 0.75},
    "training": {"num_images": 2_000, "batch_size": 32},
    "evaluation": {
        "every_images": 1_000,
        "num_samples": 600,
        "seed": 5,
        "metrics": ["fid", "kid", {"name": "is", "splits": 5}, "precision_recall"],
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished training with all metrics, and a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        directory = tmp_path_factory.mktemp("run")
        run_training(Experiment.from_dict(TINY), directory)
        yield directory


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "latest.pt"


@pytest.fixture(scope="module")
def pngs(run: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples that the training scored, as a folder of images."""
    folder = tmp_path_factory.mktemp("images")
    code, _, errors = gcsearch("sample", str(checkpoint), "--num", "600", "--output", str(folder))
    assert code == 0, errors
    return folder


def quick(path: Path, **settings: Any) -> Report:
    return evaluate(Request(path=path, **{"num_resamples": 0} | settings))


def test_checkpoint_gets_the_numbers_and_identities_that_its_training_recorded(run, checkpoint):
    (record,) = open_results(run).state.trials.values()
    report = quick(checkpoint)
    last = record.results[-1]
    assert set(report.scores) == {"fid", "fid_debiased", "kid", "is", "precision", "recall"}
    assert report.scores == {key: last.metrics[f"eval/{key}"] for key in report.scores}
    assert report.identities == {key: last.identities[f"eval/{key}"] for key in report.scores}
    assert report.lower_is_better == {
        "fid": True,
        "fid_debiased": True,
        "kid": True,
        "is": False,
        "precision": False,
        "recall": False,
    }


def test_export_gets_them_too(run, checkpoint, tmp_path):
    export_trial(open_results(run), tmp_path / "export")
    assert quick(tmp_path / "export").scores == quick(checkpoint).scores


def test_the_same_samples_as_images_get_the_same_scores_and_another_identity(checkpoint, pngs):
    of_model, of_images = quick(checkpoint), quick(pngs, data="digits", metrics=["fid", "kid", "precision_recall"])
    for key in ("fid", "fid_debiased", "kid", "precision", "recall"):
        assert of_images.scores[key] == pytest.approx(of_model.scores[key], rel=1e-9)
    assert of_images.kind == "images"
    assert of_images.num_samples == 600
    assert "sampler=unknown | quantisation=stored_uint8" in of_images.identities["fid"]


def test_real_images_score_next_to_nothing(tmp_path):
    from gcsearch.data.digits import Digits

    for index, image in enumerate(Digits().load().values):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{index}.png")
    scores = quick(tmp_path, data="digits", metrics=["fid", "kid", "precision_recall"]).scores
    assert scores["fid"] == pytest.approx(0, abs=1e-6)
    assert -0.1 < scores["kid"] < 0  # pairs of an example with its copy count between the sets, and not within
    assert (scores["precision"], scores["recall"]) == (1, 1)


def test_options_change_what_they_say(checkpoint):
    settings = {"metrics": ["fid"]}
    base = quick(checkpoint, **settings)
    fewer, steps, seed = (
        quick(checkpoint, **settings, **change) for change in ({"num": 200}, {"steps": 2}, {"seed": 1})
    )
    assert len({report.scores["fid"] for report in (base, fewer, steps, seed)}) == 4
    assert (fewer.num_samples, seed.seed, base.seed) == (200, 1, 5)
    assert "num_samples=200" in fewer.identities["fid"]
    assert "sampler=multistep(levels=[0.821]" in steps.identities["fid"]
    assert set(base.scores) == {"fid", "fid_debiased"}


def test_metrics_of_the_experiment_keep_its_settings(checkpoint):
    assert "is(splits=5)" in quick(checkpoint, metrics=["is"]).identities["is"]


def test_a_number_of_a_folder_is_chosen_by_the_seed(pngs):
    scores = [quick(pngs, data="digits", metrics=["fid"], num=100, seed=seed).scores["fid"] for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_do_not_change_the_result(num_workers, checkpoint, pngs):
    one, several = (quick(checkpoint, num=1200, num_workers=workers) for workers in (1, num_workers))
    assert several.scores == pytest.approx(one.scores, rel=1e-9)
    one, several = (quick(pngs, data="digits", num_workers=workers) for workers in (1, num_workers))
    assert several.scores == pytest.approx(one.scores, rel=1e-9)


def test_output_that_is_not_finite_has_no_score_and_exit_code_1(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    for weight in content["average"].values():
        weight.fill_(float("nan"))
    torch.save(content, tmp_path / "broken.pt")
    code, text, errors = gcsearch("evaluate", str(tmp_path / "broken.pt"), "--json")
    assert code == 1
    assert json.loads(text)["scores"]["fid"]["value"] is None
    assert "not finite" in errors


# The command -------------------------------------------------------------------------------------------------------


def test_json_has_value_interval_direction_and_identity_of_every_score(checkpoint):
    code, text, _ = gcsearch("evaluate", str(checkpoint), "--json", "--bootstrap", "20")
    assert code == 0
    document = json.loads(text)
    report = quick(checkpoint, num_resamples=20)
    assert {key: document[key] for key in ("kind", "data", "extractor", "num_samples", "seed")} == {
        "kind": "model",
        "data": "digits",
        "extractor": "digits",
        "num_samples": 600,
        "seed": 5,
    }
    assert document["scores"]["fid"] == {
        "value": report.scores["fid"],
        "low": report.intervals["fid"].low,
        "high": report.intervals["fid"].high,
        "lower_is_better": True,
        "identity": report.identities["fid"],
    }
    assert document["scores"]["fid"]["low"] < document["scores"]["fid"]["value"] < document["scores"]["fid"]["high"]
    assert document["scores"]["recall"]["low"] is None


def test_table_names_features_and_identity(checkpoint):
    code, text, errors = gcsearch("evaluate", str(checkpoint), "--metrics", "fid, kid", "--bootstrap", "5")
    assert code == 0
    assert "95 % interval" in text
    assert "fid_debiased" in text
    assert "  num_samples: 600\n  sampler: one_step\n  quantisation: clip_round_uint8\n" in text
    assert "samples: 600" in errors
    assert "precision" not in text


# Mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": Path("nowhere")}, "nowhere: there is no such folder or file"),
        ({"metrics": ["fidd"]}, "unknown metric 'fidd'. Did you mean 'fid'"),
        ({"metrics": ["fid", "fid"]}, "different keys"),
        ({"extractor": "inception"}, "RGB images of shape"),
        ({"extractor": "digit"}, "unknown extractor 'digit'. Did you mean 'digits'"),
        ({"inception_weights": Path("w.pth")}, "--inception-weights: the extractor must be 'inception'"),
        ({"data": "gaussians_2m2m"}, "--data gaussians_2m2m: examples must have the model's shape"),
        ({"data": "cifar"}, "unknown data 'cifar'"),
        ({"num": 3}, "num_samples must be at least 5, got 3"),
        ({"num_workers": 0}, "--workers must be at least 1"),
        ({"num_resamples": 1}, "--bootstrap must be 0"),
    ],
)
def test_a_model_and_a_mistake_give_one_line(settings, message, checkpoint):
    request = dataclasses.replace(Request(path=checkpoint), **settings)
    with pytest.raises(GCSearchError) as caught:
        evaluate(request)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": None}, "a folder of images needs --data"),
        ({"steps": 2}, "--steps: only a model takes steps"),
        ({"data": "gaussians_1m2m"}, "its examples are points"),
        ({"num": 601}, "at least --num = 601 images, got 600"),
        ({"num": 3}, "must hold at least 4 images, got 3"),
    ],
)
def test_images_and_a_mistake_give_one_line(settings, message, pngs):
    request = dataclasses.replace(Request(path=pngs, data="digits"), **settings)
    with pytest.raises(GCSearchError) as caught:
        evaluate(request)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_points_have_no_classes(tmp_path):
    data = TINY | {"data": "gaussians_2m2m", "evaluation": {"every_images": 1000, "num_samples": 64}}
    with pytest.raises(ConfigError, match=r"evaluation.metrics does not fit the extractor: metric 'is'"):
        Experiment.from_dict(data | {"evaluation": {"metrics": ["fid", "is"]}})


def test_a_folder_with_a_strange_image_and_an_empty_one_exit_with_2(pngs, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(pngs, folder)
    Image.new("L", (9, 8)).save(folder / "000300.png")
    code, text, errors = gcsearch("evaluate", str(folder), "--data", "digits")
    assert (code, text) == (2, "")
    assert "000300.png: must be 8 x 8 pixels like the data, got 9 x 8" in errors
    assert "Traceback" not in errors
    (tmp_path / "empty").mkdir()
    code, _, errors = gcsearch("evaluate", str(tmp_path / "empty"), "--data", "digits")
    assert code == 2
    assert "must be an export" in errors


def test_a_damaged_checkpoint_exits_with_2(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"nothing")
    code, _, errors = gcsearch("evaluate", str(tmp_path / "x.pt"))
    assert code == 2
    assert "is not a readable checkpoint" in errors


# The level of a second step ---------------------------------------------------------------------------------------


def test_level_search_finds_the_best_of_its_levels_and_confirms_it_on_fresh_latents(checkpoint):
    code, output, errors = gcsearch("evaluate", str(checkpoint), "--search-level", "--num", "200", "--json")
    assert code == 0, errors
    found = json.loads(output)
    levels, scores = zip(*found["found"], strict=True)
    assert len(levels) == 12
    assert list(levels) == sorted(levels)
    assert found["best"] == levels[scores.index(min(scores))]
    assert (found["key"], found["num_samples"], found["seed"]) == ("fid", 200, 5)
    # The same numbers by the sampler itself: at the best level with the next seed, and in one step.
    fresh = Request(path=checkpoint, num=200, seed=6, num_resamples=0, metrics=["fid"])
    assert found["one_step"] == evaluate(fresh).scores["fid"]
    assert f"levels=[{found['best']:.4g}]" in found["identity"]


@pytest.mark.slow
def test_level_search_prints_a_table_and_the_line_for_the_experiment(checkpoint):
    code, output, _ = gcsearch("evaluate", str(checkpoint), "--search-level", "--num", "100")
    assert code == 0
    assert "second level" in output
    assert "further_samplers: [{name: multistep, levels: [" in output


def test_level_search_of_images_or_with_steps_is_one_line(checkpoint, pngs):
    for path, options, message in (
        (pngs, ["--data", "digits"], "must be a model where a level is searched, but it is a folder of images."),
        (
            checkpoint,
            ["--steps", "3"],
            "--steps: must be left out where the level of a second step is searched, got 3.",
        ),
    ):
        code, _, errors = gcsearch("evaluate", str(path), "--search-level", *options)
        assert code == 2
        assert message in " ".join(errors.split())
