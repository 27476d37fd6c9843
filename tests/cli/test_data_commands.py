"""`gcsearch data`: list, prepare, info, and a training on what was prepared."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcsearch.config.documents import dump_yaml
from gcsearch.data import datasets

from .command import gcsearch


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `gcsearch` in a folder of its own, with a store of its own."""
    monkeypatch.setenv("GCSEARCH_DATA", str(tmp_path / "store"))
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    return partial(gcsearch, cwd=tmp_path)


@pytest.fixture
def photos(tmp_path) -> np.ndarray:
    """Forty grey images of 8 x 8 in the folder `photos`."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "photos" / f"{index:03d}.png")
    return images


def write_experiment(path: Path) -> None:
    experiment = {
        "name": "own",
        "data": {"name": "folder", "path": "photos", "resolution": 8, "channels": 1},
        "network": {"name": "mlp", "width": 16},
        "training": {"num_images": 512, "batch_size": 32},
        "evaluation": {"every_images": 512, "num_samples": 32, "metrics": ["fid"], "extractor": "digits"},
    }
    path.write_text(dump_yaml(experiment))


OWN = ("folder", "--from", "photos", "--resolution", "8", "--set", "channels=1")


def test_list_names_every_data_set_and_whether_it_is_there(run):
    done = run("data", "list")
    assert done.returncode == 0
    for name in datasets:
        assert name in done.stdout
    rows = {row["name"]: row for row in json.loads(run("data", "list", "--json").stdout)["data"]}
    assert rows["digits"]["state"] == "embedded"
    assert rows["digits"]["count"] == 1797
    assert (rows["cifar10"]["state"], rows["cifar10"]["count"]) == ("not prepared", 50_000)
    assert rows["cifar10"]["shape"] == [3, 32, 32]


@pytest.mark.usefixtures("photos")
def test_list_shows_every_file_of_the_store_and_damaged_ones(run, tmp_path):
    for resolution in ("8", "4"):
        run("data", "prepare", "folder", "--from", "photos", "--resolution", resolution)
    (tmp_path / "store" / "cifar10-32.arrow").write_bytes(b"damaged")
    rows = json.loads(run("data", "list", "--json").stdout)["data"]
    own = [(row["shape"], row["count"], row["state"]) for row in rows if row["name"] == "folder"]
    assert sorted(own) == [([3, 4, 4], 40, "prepared"), ([3, 8, 8], 40, "prepared")]
    assert [row["state"] for row in rows if row["name"] == "cifar10"] == ["damaged"]


def test_prepare_says_what_is_there_and_what_to_do_next(run, photos, tmp_path):
    done = run("data", "prepare", *OWN)
    assert done.returncode == 0
    assert "40 of 1 x 8 x 8" in done.stdout
    assert f"{photos.mean():.2f}" in done.stdout
    assert f"data: {{name: folder, path: {tmp_path}/photos, resolution: 8, channels: 1}}" in done.stderr
    assert f"sigma_data: {(photos / 127.5 - 1).std():.2f}" in done.stderr
    again = run("data", "prepare", *OWN)
    assert again.returncode == 0
    assert "Already prepared" in again.stderr


def test_json_of_prepare_and_info_agree(run, photos):
    prepared = json.loads(run("data", "prepare", *OWN, "--json").stdout)
    info = json.loads(run("data", "info", *OWN, "--verify", "--json").stdout)
    assert prepared.pop("is_new")
    assert info.items() >= prepared.items()
    assert info["count"] == 40
    assert info["channel_mean"] == pytest.approx([photos.mean()])
    assert info["size_bytes"] == Path(info["path"]).stat().st_size


@pytest.mark.usefixtures("photos")
def test_info_verifies_the_pixels(run):
    path = Path(json.loads(run("data", "prepare", *OWN, "--json").stdout)["path"])
    assert "match the recorded hash" in run("data", "info", *OWN, "--verify").stderr
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert run("data", "info", *OWN).returncode == 0
    done = run("data", "info", *OWN, "--verify")
    assert done.returncode == 2
    assert "damaged" in done.stderr


def test_info_of_embedded_data(run):
    info = json.loads(run("data", "info", "digits", "--json").stdout)
    assert (info["count"], info["state"]) == (1797, "embedded")
    assert info["std"] == pytest.approx(0.75, abs=0.01)
    assert "sigma_data" in run("data", "info", "gaussians_1m2m").stdout
    assert "nothing to prepare" in run("data", "prepare", "digits").stdout


@pytest.mark.usefixtures("photos")
def test_training_asks_for_preparation_and_then_runs(run, tmp_path):
    write_experiment(tmp_path / "own.yaml")
    asked = run("train", "own.yaml")
    assert asked.returncode == 2
    assert f"gcsearch data prepare folder --from {tmp_path}/photos --resolution 8 --set channels=1" in asked.stderr
    assert run("data", "prepare", "own.yaml").returncode == 0
    trained = run("train", "own.yaml")
    assert trained.returncode == 0, trained.stderr
    assert "completed" in trained.stdout


@pytest.mark.usefixtures("photos")
def test_store_may_be_elsewhere(run, tmp_path):
    done = run("data", "prepare", *OWN, "--store", "other")
    assert "GCSEARCH_DATA=other" in done.stderr
    assert len(list((tmp_path / "other").glob("*.arrow"))) == 1
    assert run("data", "info", *OWN).returncode == 2
    assert run("data", "info", *OWN, "--store", "other").returncode == 0


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "cifar11"], "Did you mean 'cifar10'"),
        (["prepare", "folder", "--from", "gone"], "found nothing there"),
        (["prepare", "folder", "--from", "photos", "--set", "filtr=box"], "Did you mean 'filter'"),
        (["prepare", "folder", "--from", "photos", "--resolution", "0"], "resolution must be at least 1"),
        (["prepare", "cifar10", "--resolution", "64"], "--resolution must be left out"),
        (["prepare", "imagenet32"], "image-net.org"),
        (["prepare", "celeba64", "--from", "photos"], "there must be 202,599 images, got 40"),
        (["info", "cifar10"], "must be prepared first"),
        (["info", "missing.yaml"], "no such file"),
        (["prepare", "digits", "--resolution", "16"], "--resolution must be left out"),
    ],
)
def test_mistakes_of_the_user_are_one_line_and_exit_2(run, arguments, words):
    done = run("data", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
