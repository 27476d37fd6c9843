"""Fashion-MNIST from IDX files; from Debian's package where it is installed."""

from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

from gcsearch.data import fashion_mnist
from gcsearch.data.fashion_mnist import DEBIAN, NAME, FashionMNIST
from gcsearch.data.image_set import prepare
from gcsearch.errors import DataError


@pytest.fixture
def images(make):
    return make.pixels(40, 1, 28)


@pytest.mark.parametrize("name", [NAME, f"{NAME}.gz"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_plain_and_packed_files_give_the_images(name, is_folder, images, make, tmp_path):
    path = make.write_idx(tmp_path / "f" / name, images)
    stored = prepare(FashionMNIST(), path.parent if is_folder else path, trust=True).stored
    torch.testing.assert_close(stored.images, torch.from_numpy(images), rtol=0, atol=0)
    assert stored.metadata.channel_mean == pytest.approx((images.mean(),), rel=1e-12)
    assert stored.metadata.channel_std == pytest.approx((images.std(),), rel=1e-12)


def test_border_is_black_and_even(images, make, tmp_path):
    path = make.write_idx(tmp_path / NAME, images)
    stored = prepare(FashionMNIST(resolution=32), path, trust=True).stored
    assert stored.images.shape == (40, 1, 32, 32)
    np.testing.assert_array_equal(stored.images[:, :, 2:-2, 2:-2], images)
    assert int(stored.images.sum()) == int(images.astype(np.int64).sum())


@pytest.mark.parametrize("start", [0, 5, 39, 40])
def test_reading_may_begin_anywhere(start, images, make, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "CHUNK", 7)
    source = FashionMNIST().open_source(make.write_idx(tmp_path / NAME, images), trust=True)
    np.testing.assert_array_equal(np.concatenate([images[:0], *source.read(start)]), images[start:])


def test_other_content_is_refused_unless_trusted(images, make, tmp_path, monkeypatch):
    path = make.write_idx(tmp_path / NAME, images)
    with pytest.raises(DataError, match="must have the md5"):
        prepare(FashionMNIST(), path)
    monkeypatch.setattr(fashion_mnist, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    assert prepare(FashionMNIST(), path).stored.metadata.verification == "md5 as published"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 40,
        struct.pack(">4i", 2049, 1, 28, 28) + bytes(784),
        struct.pack(">4i", 2051, 2, 28, 28) + bytes(784),
        gzip.compress(struct.pack(">4i", 2051, 1, 28, 28) + bytes(784))[:-12],
        b"\x1f\x8b" + b"damaged" * 5,
    ],
    ids=["empty", "zeros", "labels", "too short", "gzip cut off", "no gzip"],
)
def test_damaged_file_is_refused(data, tmp_path):
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(DataError, match="must be an IDX file of images, but"):
        prepare(FashionMNIST(), tmp_path, trust=True)


def test_images_of_another_size_are_refused(make, tmp_path):
    path = make.write_idx(tmp_path / NAME, make.pixels(2, 1, 32))
    with pytest.raises(DataError, match="must be 28 x 28, got 32 x 32"):
        prepare(FashionMNIST(), path, trust=True)


@pytest.mark.parametrize("resolution", [0, 27, 30, 64])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match="resolution must be 28 or 32"):
        FashionMNIST(resolution=resolution)


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_package_of_debian_is_found_and_is_the_published_data():
    stored = prepare(FashionMNIST()).stored
    assert stored.metadata.count == 60_000
    assert stored.metadata.verification == "md5 as published"
    # What everybody normalises this data with.
    assert stored.metadata.channel_mean[0] / 255 == pytest.approx(0.2860, abs=5e-5)
    assert stored.metadata.channel_std[0] / 255 == pytest.approx(0.3530, abs=5e-5)
    values = np.frombuffer(gzip.decompress((DEBIAN / f"{NAME}.gz").read_bytes()), np.uint8, offset=16)
    assert stored.metadata.channel_mean[0] == pytest.approx(values.mean(), rel=1e-12)
    assert stored.metadata.channel_std[0] == pytest.approx(values.std(), rel=1e-9)
