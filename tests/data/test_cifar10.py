"""CIFAR-10 from every form in which it is published."""

from __future__ import annotations

import hashlib
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from gcsearch.data import cifar10
from gcsearch.data.cifar10 import CIFAR10
from gcsearch.data.image_set import prepare
from gcsearch.errors import DataError


@pytest.fixture
def images(make):
    return make.pixels(23, 3, 32)


def form(make, folder, images, name):
    is_binary = "binary" in name
    archive = make.write_tar(folder / "c.tar.gz", make.cifar_batches(images, is_binary=is_binary))
    if "archive" in name:
        return archive
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder / ("cifar-10-batches-bin" if is_binary else "cifar-10-batches-py")


@pytest.mark.parametrize("name", ["binary archive", "python archive", "binary folder", "python folder"])
def test_every_form_gives_the_training_images_and_their_statistics(name, images, make, tmp_path):
    stored = prepare(CIFAR10(), form(make, tmp_path, images, name), trust=True).stored
    torch.testing.assert_close(stored.images, torch.from_numpy(images), rtol=0, atol=0)
    assert stored.metadata.channel_mean == pytest.approx(images.mean(axis=(0, 2, 3)), rel=1e-12)
    assert stored.metadata.channel_std == pytest.approx(images.std(axis=(0, 2, 3)), rel=1e-12)
    assert stored.metadata.verification.startswith("not verified")
    assert CIFAR10().load().sha256 == hashlib.sha256(images.tobytes()).hexdigest()


@pytest.mark.parametrize("name", ["binary archive", "python archive", "binary folder", "python folder"])
@pytest.mark.parametrize("start", [0, 3, 5, 22, 23])
def test_reading_may_begin_anywhere(name, start, images, make, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "CHUNK", 2)
    source = CIFAR10().open_source(form(make, tmp_path, images, name), trust=True)
    rest = list(source.read(start))
    np.testing.assert_array_equal(np.concatenate([images[:0], *rest]), images[start:])


@pytest.mark.parametrize("name", ["binary archive", "python archive", "python folder"])
def test_files_that_are_not_the_published_ones_are_refused(name, images, make, tmp_path):
    path = form(make, tmp_path, images, name)
    with pytest.raises(DataError, match=r"must have the published md5 .* take it as it is with --trust"):
        prepare(CIFAR10(), path)


def test_published_archive_is_recognised_by_its_checksum(images, make, tmp_path, monkeypatch):
    path = form(make, tmp_path, images, "binary archive")
    monkeypatch.setitem(cifar10.MD5, "cifar-10-binary.tar.gz", hashlib.md5(path.read_bytes()).hexdigest())
    assert prepare(CIFAR10(), path).stored.metadata.verification == "md5 as published"


def test_published_python_batches_are_recognised_by_their_checksums(images, make, tmp_path, monkeypatch):
    folder = form(make, tmp_path, images, "python folder")
    sums = tuple(hashlib.md5((folder / f"data_batch_{n}").read_bytes()).hexdigest() for n in range(1, 6))
    monkeypatch.setattr(cifar10, "PYTHON_MD5", sums)
    assert prepare(CIFAR10(), folder).stored.metadata.verification == "md5 of all batches as published"


def test_batch_that_runs_a_command_is_refused(images, make, tmp_path):
    class Command:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    files = make.cifar_batches(images, is_binary=False)
    files["cifar-10-batches-py/data_batch_3"] = pickle.dumps({b"data": Command()})
    with pytest.raises(DataError, match="data_batch_3: must hold arrays only"):
        prepare(CIFAR10(), make.write_tar(tmp_path / "c.tar.gz", files), trust=True)
    assert not (tmp_path / "ran").exists()


def test_truncated_archive_is_refused(images, make, tmp_path):
    path = form(make, tmp_path, images, "binary archive")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="must be a complete tar archive"):
        prepare(CIFAR10(), path, trust=True)


@pytest.mark.parametrize("is_binary", [True, False])
def test_missing_batch_is_refused(is_binary, images, make, tmp_path):
    files = make.cifar_batches(images, is_binary=is_binary)
    files = {name: data for name, data in files.items() if "data_batch_4" not in name}
    with pytest.raises(DataError, match="must hold data_batch_1 to data_batch_5"):
        prepare(CIFAR10(), make.write_tar(tmp_path / "c.tar.gz", files), trust=True)


def test_binary_batch_of_odd_size_is_refused(images, make, tmp_path):
    files = make.cifar_batches(images, is_binary=True)
    files["cifar-10-batches-bin/data_batch_2.bin"] += b"x"
    with pytest.raises(DataError, match=r"data_batch_2\.bin must hold records of 3073 bytes"):
        prepare(CIFAR10(), make.write_tar(tmp_path / "c.tar.gz", files), trust=True)


@pytest.mark.parametrize("data", [np.zeros((2, 3), np.uint8), np.zeros((2, 3072), np.float32), [1], None])
def test_pickled_batch_of_another_form_is_refused(data, images, make, tmp_path):
    files = make.cifar_batches(images, is_binary=False)
    files["cifar-10-batches-py/data_batch_2"] = pickle.dumps({b"data": data}, 2)
    with pytest.raises(DataError, match=r"data_batch_2: data must be bytes of shape \[N, 3072\], got"):
        prepare(CIFAR10(), make.write_tar(tmp_path / "c.tar.gz", files), trust=True)


def test_nothing_at_the_path_is_said_so(tmp_path):
    with pytest.raises(DataError, match=r"gone: must be cifar-10-binary\.tar\.gz, .*found nothing"):
        prepare(CIFAR10(), tmp_path / "gone")
