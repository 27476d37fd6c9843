"""Files of a recipe on their way to a machine that lacks them, without a cluster."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gcsearch.config import Experiment
from gcsearch.data.image_set import ImageSet, prepare
from gcsearch.errors import DataError
from gcsearch.files import supply
from gcsearch.metrics.inception import InceptionExtractor
from gcsearch.science.perceptual import load_weights
from gcsearch.training import teacher_stage
from gcsearch.training.step import Learner
from gcsearch.training.teacher_stage import prepare as prepare_teacher
from gcsearch.training.teacher_stage import teacher_file
from gcsearch.tuning import shipping
from gcsearch.tuning.shipping import Depot, unpack


@pytest.fixture(autouse=True)
def _nothing_supplied():
    yield
    supply({})


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Folder of the driver's machine."""
    monkeypatch.setenv("GCSEARCH_DATA", str(tmp_path / "driver" / "store"))
    return tmp_path / "driver"


@pytest.fixture
def experiment(driver, lpips_weights, monkeypatch) -> Experiment:
    """A recipe that reads a file of every kind."""
    (driver / "images").mkdir(parents=True)
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(driver / "images" / f"{index}.png")
    lpips_weights(shutil.copytree(lpips_weights(), driver / "weights"))
    monkeypatch.setenv("GCSEARCH_INCEPTION", str(driver / "inception.pth"))
    torch.save({"fc.weight": torch.ones(3, 2)}, driver / "inception.pth")
    (driver / "frozen.pt").write_bytes(b"a checkpoint")
    recipe = Experiment.from_dict(
        {
            "name": "tiny",
            "data": {"name": "folder", "path": str(driver / "images"), "resolution": 16},
            "distance": "lpips",
            "coupling": {"name": "generator", "predictor": "frozen", "checkpoint": str(driver / "frozen.pt")},
        }
    )
    assert isinstance(recipe.data, ImageSet)
    prepare(recipe.data)
    return recipe


class Store:
    """An object store; counts what is put in and taken out."""

    def __init__(self) -> None:
        self.objects: list[bytes] = []
        self.taken = 0

    def put(self, value) -> int:
        self.objects.append(bytes(value))
        return len(self.objects) - 1

    def get(self, reference: int) -> bytes:
        self.taken += 1
        return self.objects[reference]


@pytest.fixture
def node(tmp_path, monkeypatch):
    """Makes this process one of a machine that has nothing of the driver's."""

    def become() -> Path:
        for variable in ("GCSEARCH_DATA", "GCSEARCH_INCEPTION", "GCSEARCH_LPIPS"):
            monkeypatch.delenv(variable)
        monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "node"))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "node" / "torch"))
        return tmp_path / "node"

    return become


def test_a_recipe_names_all_files_that_it_reads(experiment, driver):
    files = experiment.files()
    assert sorted(path.relative_to(driver).parts[0] for path in files.values()) == [
        "frozen.pt",
        "inception.pth",
        "store",
        "weights",
        "weights",
    ]
    assert all(path.is_file() for path in files.values())
    assert Experiment.from_dict({"name": "plain", "data": "digits"}).files() == {}


def test_files_are_copied_once_and_components_find_them(experiment, driver, node, monkeypatch):
    monkeypatch.setattr(shipping, "PIECE", 10_000)
    store = Store()
    depot = Depot(store.put)
    manifest = depot.manifest(experiment)
    num_pieces = len(store.objects)
    assert num_pieces > 5
    assert depot.manifest(experiment) == manifest
    assert len(store.objects) == num_pieces, "the second trial puts nothing more"
    examples, identity, weights = (
        experiment.data.load(),
        InceptionExtractor().identity,
        load_weights(torch.device("cpu")),
    )
    pixels, sha256 = examples.values.clone(), examples.sha256
    weights = {name: value.clone() for name, value in weights.items()}
    driver.rename(driver.with_name("gone"))

    folder = node()
    for _ in range(2):
        supply(unpack(manifest, experiment, store.get))
        assert store.taken == num_pieces
        here = experiment.data.load()
        assert here.sha256 == sha256
        torch.testing.assert_close(here.values, pixels, rtol=0, atol=0)
        assert InceptionExtractor().identity == identity
        torch.testing.assert_close(load_weights(torch.device("cpu")), weights, rtol=0, atol=0)
    copies = [path for path in (folder / "copies").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert len(copies) == 5
    supply({})
    with pytest.raises(DataError, match="must be prepared first"):
        experiment.data.load()


def test_a_machine_that_sees_the_files_or_has_its_own_copies_nothing(experiment, driver, node):
    store = Store()
    manifest = Depot(store.put).manifest(experiment)
    data = experiment.data.file_stem + ".arrow"
    folder = node()
    assert unpack(manifest, experiment, store.get)[data] == driver / "store" / data
    own = folder / "data" / data
    own.parent.mkdir(parents=True)
    shutil.copy(driver / "store" / data, own)
    (driver / "store" / data).write_bytes(b"another file of this name")
    assert unpack(manifest, experiment, store.get)[data] == own
    assert store.taken == 0
    own.write_bytes(b"another one still")
    copy = unpack(manifest, experiment, store.get)[data]
    assert (store.taken, copy.is_relative_to(folder / "copies")) == (1, True)
    assert own.read_bytes() == b"another one still"


def test_what_the_driver_lacks_is_left_to_the_others(experiment, driver):
    shutil.rmtree(driver)
    store = Store()
    assert Depot(store.put).manifest(experiment) == b""
    assert unpack(b"", experiment, store.get) == {}


def test_a_teacher_trained_by_the_driver_is_not_trained_again_on_a_node(tmp_path, monkeypatch):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "driver"))
    teacher = {"name": "trained", "num_images": 64, "batch_size": 32}
    experiment = Experiment.from_dict(
        {
            "name": "tiny",
            "data": "digits",
            "network": {"name": "mlp", "width": 16},
            "objective": {"name": "consistency_distillation", "teacher": teacher},
        }
    )
    record, store = prepare_teacher(experiment), Store()
    manifest = Depot(store.put).manifest(experiment)
    stage = experiment.teacher_stage
    content = stage.model_path.read_bytes()
    shutil.rmtree(tmp_path / "driver")
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "node"))
    monkeypatch.setattr(teacher_stage, "_train", None)  # would fail if it were called
    supply(unpack(manifest, experiment, store.get))
    assert teacher_file(stage).read_bytes() == content
    assert prepare_teacher(experiment) == record
    assert Learner(experiment, torch.device("cpu")).teacher_sha256 is not None
