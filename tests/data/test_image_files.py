"""Images in folders, zip archives and LMDBs."""

from __future__ import annotations

import importlib.util
import os
import sys
import zipfile

import pytest

from gcsearch.data.image_files import open_collection, open_lmdb
from gcsearch.errors import DataError


@pytest.fixture
def folder(tmp_path, make):
    return make.write_folder(tmp_path / "images", make.pixels(6, 3, 8))


def zipped(path, folder):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


def test_images_at_any_depth_come_in_the_order_of_their_names(folder):
    collection = open_collection(folder)
    assert collection.names == [f"a/{index:05d}.png" for index in range(3)] + [
        f"b/c/{index:05d}.png" for index in range(3, 6)
    ]
    assert collection.read("b/c/00004.png") == (folder / "b/c/00004.png").read_bytes()


def test_zip_archive_reads_as_the_folder_does(folder, tmp_path):
    collection, inside = open_collection(folder), open_collection(zipped(tmp_path / "x.zip", folder))
    assert inside.names == collection.names
    assert [inside.read(name) for name in inside.names] == [collection.read(name) for name in collection.names]


def test_other_files_and_hidden_ones_are_left_out(folder):
    before = open_collection(folder)
    for name in ("a/notes.txt", ".hidden.png", ".cache/x.png", "__MACOSX/x.png", "a/png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert open_collection(folder).names == before.names
    assert open_collection(folder).identity == before.identity
    (folder / "a" / "PHOTO.JPG").write_bytes(b"x")
    assert "a/PHOTO.JPG" in open_collection(folder).names


@pytest.mark.parametrize("change", ["content", "name", "removed", "added"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_identity_changes_with_the_images(folder, tmp_path, change, form):
    def identity():
        return open_collection(folder if form == "folder" else zipped(tmp_path / "x.zip", folder)).identity

    before, file = identity(), folder / "a/00001.png"
    assert identity() == before
    if change == "content":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        os.utime(file, ns=(10**18, 10**18))
    elif change == "name":
        file.rename(folder / "a/renamed.png")
    elif change == "removed":
        file.unlink()
    else:
        (folder / "a/00009.png").write_bytes(file.read_bytes())
    assert identity() != before


@pytest.mark.parametrize(("name", "words"), [("gone", "found nothing"), ("", "must hold images"), ("x", "another")])
def test_places_without_images_are_named(tmp_path, name, words):
    (tmp_path / "x").write_text("text")
    with pytest.raises(DataError, match=words) as caught:
        open_collection(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_damaged_member_of_an_archive_is_named(folder, tmp_path):
    path = zipped(tmp_path / "x.zip", folder)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("a/00000.png")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 60] ^= 255
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.zip: a/00000\.png must be readable"):
        open_collection(path).read("a/00000.png")


def test_image_that_vanished_is_named(folder):
    collection = open_collection(folder)
    (folder / "a/00000.png").unlink()
    with pytest.raises(DataError, match=r"a/00000\.png: must be readable, but No such file"):
        collection.read("a/00000.png")


def test_lmdb_without_the_library_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match=r"pip install 'gcsearch\[lmdb\]', or export the images to a folder"):
        open_lmdb(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("lmdb") is None, reason="needs the optional library lmdb")
class TestLMDB:
    def test_images_come_in_the_order_of_their_keys(self, tmp_path, make):
        import lmdb

        images = {f"key{index}".encode(): make.png(image) for index, image in enumerate(make.pixels(9, 3, 8))}
        with lmdb.open(str(tmp_path / "db"), map_size=1 << 22) as environment, environment.begin(write=True) as writer:
            for key in reversed(images):
                writer.put(key, images[key])
        collection = open_lmdb(tmp_path / "db")
        assert [collection.read(name) for name in collection.names] == list(images.values())
        identity = collection.identity
        del collection  # an LMDB is open once per process
        assert open_lmdb(tmp_path / "db").identity == identity

    def test_other_files_are_refused(self, tmp_path):
        (tmp_path / "data.mdb").write_bytes(b"x" * 9999)
        with pytest.raises(DataError, match="must be an LMDB of images"):
            open_lmdb(tmp_path)
