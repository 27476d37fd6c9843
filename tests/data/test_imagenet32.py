"""ImageNet at 32 x 32: batches in every form, and photographs."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from gcsearch.data import imagenet32
from gcsearch.data.image_set import prepare
from gcsearch.data.imagenet32 import ImageNet32
from gcsearch.errors import DataError

BOX = ImageNet32(resize="box")


@pytest.fixture
def images(make):
    return make.pixels(25, 3, 32)


def batches(folder, images, name):
    """Ten batches of two or three images: npz or pickles, in a folder or a zip archive."""
    folder.mkdir()
    for number, part in enumerate(np.array_split(images, 10), 1):
        rows, labels = part.reshape(len(part), -1), np.arange(len(part))
        if "npz" in name:
            np.savez(folder / f"train_data_batch_{number}.npz", data=rows, labels=labels, mean=rows.mean(axis=0))
        else:
            content = {"data": rows, "labels": labels.tolist(), "mean": rows.mean(axis=0)}
            (folder / f"train_data_batch_{number}").write_bytes(pickle.dumps(content))
    if "zip" not in name:
        return folder
    with zipfile.ZipFile(f"{folder}.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"Imagenet32_train/{file.name}")
    return folder.with_suffix(".zip")


@pytest.mark.parametrize("name", ["npz folder", "npz zip", "pickle folder", "pickle zip"])
def test_every_form_of_the_batches_gives_the_images_in_order(name, images, tmp_path):
    stored = prepare(BOX, batches(tmp_path / "b", images, name), trust=True).stored
    torch.testing.assert_close(stored.images, torch.from_numpy(images), rtol=0, atol=0)
    assert stored.metadata.channel_mean == pytest.approx(images.mean(axis=(0, 2, 3)), rel=1e-12)


@pytest.mark.parametrize("name", ["npz folder", "pickle zip"])
@pytest.mark.parametrize("start", [0, 2, 3, 24, 25])
def test_reading_may_begin_anywhere(name, start, images, tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet32, "CHUNK", 2)
    source = BOX.open_source(batches(tmp_path / "b", images, name), trust=True)
    np.testing.assert_array_equal(np.concatenate([images[:0], *source.read(start)]), images[start:])


def test_photographs_are_resized_as_the_paper_does(make, tmp_path):
    originals = make.pixels(4, 3, 50, 70)
    stored = prepare(ImageNet32(), make.write_folder(tmp_path / "p", originals), trust=True).stored
    for image, original in zip(stored.images, originals, strict=True):
        small = Image.fromarray(original.transpose(1, 2, 0)).resize((44, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image, np.asarray(small.crop((6, 0, 38, 32))).transpose(2, 0, 1))


def test_the_two_preparations_are_different_files(make, images, tmp_path):
    prepare(ImageNet32(), make.write_folder(tmp_path / "p", images), trust=True)
    with pytest.raises(DataError, match="data prepare imagenet32 --from PATH --set resize=box"):
        BOX.load()
    prepare(BOX, batches(tmp_path / "b", images, "npz folder"), trust=True)
    assert ImageNet32().stored_at() != BOX.stored_at()
    assert BOX.load().values.shape == ImageNet32().load().values.shape


def test_batches_are_not_taken_for_photographs_nor_the_reverse(make, images, tmp_path):
    path = batches(tmp_path / "b", images, "npz folder")
    with pytest.raises(DataError, match=r"--set resize=box, and set data\.resize=box in the experiment"):
        prepare(ImageNet32(), path, trust=True)
    with pytest.raises(DataError, match="must hold train_data_batch_1 to train_data_batch_10, found none"):
        prepare(BOX, make.write_folder(tmp_path / "p", images), trust=True)


def test_another_number_of_images_is_refused_unless_trusted(images, make, tmp_path):
    path = batches(tmp_path / "b", images, "npz folder")
    with pytest.raises(DataError, match="there must be 1,281,167 images, got 25"):
        prepare(BOX, path)
    assert "25 images instead of" in prepare(BOX, path, trust=True).stored.metadata.verification


def test_missing_batch_is_named(images, tmp_path):
    path = batches(tmp_path / "b", images, "npz folder")
    (path / "train_data_batch_7.npz").unlink()
    with pytest.raises(DataError, match=r"train_data_batch_7\.npz is missing"):
        prepare(BOX, path, trust=True)


@pytest.mark.parametrize("content", [b"PK damaged", {"images": np.zeros(3)}, {"data": np.array([object()])}])
def test_damaged_batch_is_refused(content, images, tmp_path):
    path = batches(tmp_path / "b", images, "npz folder")
    file = path / "train_data_batch_2.npz"
    file.write_bytes(content) if isinstance(content, bytes) else np.savez(file, **content)
    with pytest.raises(DataError, match=r"train_data_batch_2\.npz"):
        prepare(BOX, path, trust=True)


def test_npz_batch_that_runs_a_command_is_refused_and_nothing_runs(images, tmp_path):
    class Command:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = batches(tmp_path / "b", images, "npz folder")
    np.savez(path / "train_data_batch_2.npz", data=np.array([Command(), Command()]), allow_pickle=True)
    with pytest.raises(DataError, match=r"train_data_batch_2\.npz must be an npz file"):
        prepare(BOX, path, trust=True)
    assert not (tmp_path / "ran").exists()
