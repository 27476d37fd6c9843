"""CelebA and LSUN churches at 64 x 64."""

from __future__ import annotations

import hashlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from gcsearch.data import celeba64
from gcsearch.data.celeba64 import CelebA64
from gcsearch.data.image_set import prepare
from gcsearch.data.lsun_church64 import LSUNChurch64
from gcsearch.errors import DataError


@pytest.fixture
def faces(make, tmp_path):
    return make.write_folder(tmp_path / "faces", make.pixels(3, 3, 218, 178))


def test_faces_are_shrunk_whole_as_the_gc_paper_does(make, faces):
    stored = prepare(CelebA64(), faces, trust=True).stored
    original = Image.fromarray(make.pixels(3, 3, 218, 178)[1].transpose(1, 2, 0))
    small = np.asarray(original.resize((64, 78), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(stored.images[1], small[7:71].transpose(2, 0, 1))


def test_crop_takes_the_centre_first_and_is_another_file(make, faces):
    stored = prepare(CelebA64(crop=140), faces, trust=True).stored
    original = Image.fromarray(make.pixels(3, 3, 218, 178)[1].transpose(1, 2, 0)).crop((19, 39, 159, 179))
    small = np.asarray(original.resize((64, 64), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(stored.images[1], small.transpose(2, 0, 1))
    with pytest.raises(DataError, match="must be prepared first"):
        CelebA64().load()
    with pytest.raises(DataError, match="--set crop=148"):
        CelebA64(crop=148).load()


def test_archive_gives_the_same_pixels_and_is_recognised_by_its_checksum(faces, tmp_path, monkeypatch):
    path = tmp_path / "img_align_celeba.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(faces.rglob("*.png")):
            archive.write(file, f"img_align_celeba/{file.name}")
    from_folder = prepare(CelebA64(), faces, trust=True).stored.metadata
    monkeypatch.setattr(celeba64, "ZIP_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    from_zip = prepare(CelebA64(), path, trust=True, again=True).stored.metadata
    assert from_zip.sha256 == from_folder.sha256
    assert (from_folder.verification, from_zip.verification) == (
        "not verified: 3 images instead of 202,599",
        "md5 as published",
    )


def test_images_that_are_not_aligned_are_refused(make, tmp_path):
    folder = make.write_folder(tmp_path / "wild", make.pixels(2, 3, 100, 90))
    with pytest.raises(DataError, match=r"00000\.png: must be 178 x 218, got 90 x 100"):
        prepare(CelebA64(), folder, trust=True)


@pytest.mark.parametrize("dataset", [CelebA64(), LSUNChurch64()])
def test_part_of_the_images_is_refused_unless_trusted(dataset, faces):
    with pytest.raises(DataError, match=r"there must be .* images, got 3\. .* --trust"):
        prepare(dataset, faces)


@pytest.mark.parametrize("crop", [0, 63, 179])
def test_crops_that_do_not_fit_are_refused(crop):
    with pytest.raises(ValueError, match=r"crop must be null or in \[64, 178\]"):
        CelebA64(crop=crop)


def test_churches_are_shrunk_and_cut(make, tmp_path):
    stored = prepare(LSUNChurch64(), make.write_folder(tmp_path / "l", make.pixels(2, 3, 80, 100)), trust=True).stored
    original = Image.fromarray(make.pixels(2, 3, 80, 100)[0].transpose(1, 2, 0))
    small = np.asarray(original.resize((80, 64), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(stored.images[0], small[:, 8:72].transpose(2, 0, 1))


def test_lmdb_is_recognised_by_its_file(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("gcsearch.data.lsun_church64.open_lmdb", lambda path: asked.append(path) or 1 / 0)
    (tmp_path / "data.mdb").write_bytes(b"")
    with pytest.raises(ZeroDivisionError):
        prepare(LSUNChurch64(), tmp_path)
    assert asked == [tmp_path]
