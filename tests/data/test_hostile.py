"""Damaged and hostile sources of every data set: a clear error, nothing run, nothing unpacked, nothing left behind."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from gcsearch.data import bounded
from gcsearch.data.celeba64 import CelebA64
from gcsearch.data.cifar10 import CIFAR10
from gcsearch.data.fashion_mnist import NAME, FashionMNIST
from gcsearch.data.folder import Folder
from gcsearch.data.image_set import prepare
from gcsearch.data.imagenet32 import ImageNet32
from gcsearch.data.lsun_church64 import LSUNChurch64
from gcsearch.data.table import Table
from gcsearch.errors import DataError

MANY = 1 << 21
"""Bytes that are too many here, since the tests lower the limit to half of that."""

BOX = ImageNet32(resize="box")
OWN = Folder(resolution=16)


def tree(folder):
    """Everything under a folder, with sizes."""
    return {path: path.lstat().st_size for path in folder.rglob("*")}


def written(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def zipped(path, members, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def huge_png(width, height):
    """A PNG of a few bytes that claims to have that many pixels."""

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(100))) + part(b"IEND", b"")


def narrow_png():
    """A true image of one row; as high as the resolution, it would take a gigabyte."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (3_000_000, 1)).save(stream, "png")
    return stream.getvalue()


def claimed_array(count):
    """Pickled batch of a few bytes that asks for an array of `count` images and gives none of them."""
    return (
        b"\x80\x02}(U\x04datacnumpy\nndarray\n" + b"J" + struct.pack("<i", count) + b"M\x00\x0c\x86cnumpy\ndtype\n"
        b"U\x02u1\x85R\x86Ru."
    )


def npz(shape, data=b"", name="data.npy"):
    """An npz file whose array claims a shape."""
    stream, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, header.getvalue() + data)
    return stream.getvalue()


def cifar(make, folder, change, *, is_binary=True):
    """Archive of small batches, after `change` of the files' contents."""
    files = make.cifar_batches(make.pixels(10, 3, 32), is_binary=is_binary)
    change(files)
    return make.write_tar(folder / "c.tar.gz", files)


def special_member(make, folder, kind, target=""):
    """CIFAR archive in which the third batch is no file."""
    path = folder / "c.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in make.cifar_batches(make.pixels(10, 3, 32), is_binary=True).items():
            member = tarfile.TarInfo(name)
            if "data_batch_3" in name:
                member.type, member.linkname = kind, target
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def imagenet(make, folder, batch, suffix=".npz"):
    """Ten batches of which the fourth is `batch`."""
    rows = make.pixels(2, 3, 32).reshape(2, -1)
    good = npz(rows.shape, rows.tobytes()) if suffix else pickle.dumps({"data": rows})
    names = [f"train_data_batch_{number}{suffix}" for number in range(1, 11)]
    return {name: batch if "batch_4" in name else good for name in names}


def imagenet_folder(make, folder, batch, suffix=".npz"):
    for name, data in imagenet(make, folder, batch, suffix).items():
        written(folder / "batches" / name, data)
    return folder / "batches"


def images(make, folder, name, data):
    """Folder of good images and one more."""
    make.write_folder(folder / "images", make.pixels(4, 3, 218, 178))
    written(folder / "images" / name, data)
    return folder / "images"


def fifo(make, folder):
    path = make.write_folder(folder / "images", make.pixels(4, 3, 16))
    os.mkfifo(path / "z.png")
    return path


def link_to_nowhere(make, folder):
    path = make.write_folder(folder / "images", make.pixels(4, 3, 16))
    (path / "z.png").symlink_to(folder / "gone.png")
    return path


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def without_middle(path):
    """Zip archive whose directory is there, but not where its end says."""
    data = path.read_bytes()
    return written(path, data[: len(data) // 3] + data[len(data) // 2 :])


def saved(make, folder, name):
    """What `datasets` saves, naming a file elsewhere."""
    make.write_parquet(folder / "secret.parquet", make.pixels(3, 3, 16))
    written(folder / "saved/state.json", json.dumps({"_data_files": [{"filename": name}]}).encode())
    return folder / "saved"


def parquet(make, folder, data):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [data]}), folder / "x.parquet")
    return folder / "x.parquet"


IDX = struct.pack(">4I", 2051, 1, 28, 28) + bytes(784)
PNG_WORDS = r"must be an image that Pillow can read, but Image size \(2500000000 pixels\) exceeds limit"
TOO_LARGE = "must unpack to at most 1 MiB, but is larger"

HOSTILE = {
    "idx empty": (FashionMNIST(), lambda make, to: written(to / NAME, b""), "must be an IDX file"),
    "idx truncated": (
        FashionMNIST(),
        lambda make, to: half(written(to / f"{NAME}.gz", gzip.compress(IDX))),
        "IDX file",
    ),
    "idx bomb": (FashionMNIST(), lambda make, to: written(to / f"{NAME}.gz", gzip.compress(bytes(MANY))), TOO_LARGE),
    "idx of huge count": (
        FashionMNIST(),
        lambda make, to: written(to / NAME, struct.pack(">4I", 2051, 2**32 - 1, 28, 28) + bytes(784)),
        "must be an IDX file",
    ),
    "idx of no images": (
        FashionMNIST(),
        lambda make, to: written(to / NAME, struct.pack(">4I", 2051, 0, 28, 28)),
        "must hold 0 images|must hold at least one image",
    ),
    "tar empty": (CIFAR10(), lambda make, to: make.write_tar(to / "c.tar.gz", {}), "must hold data_batch_1"),
    "tar of no bytes": (CIFAR10(), lambda make, to: written(to / "c.tar.gz", b""), "must be a complete tar archive"),
    "tar truncated": (CIFAR10(), lambda make, to: half(cifar(make, to, lambda files: None)), "complete tar archive"),
    "tar bomb": (
        CIFAR10(),
        lambda make, to: cifar(make, to, lambda files: files.update({"zeros": bytes(MANY)})),
        TOO_LARGE,
    ),
    "tar with a link out": (
        CIFAR10(),
        lambda make, to: special_member(make, to, tarfile.SYMTYPE, "/etc/passwd"),
        r"data_batch_3\.bin must be a file",
    ),
    "tar with a link to itself": (
        CIFAR10(),
        lambda make, to: special_member(make, to, tarfile.SYMTYPE, "data_batch_3.bin"),
        r"data_batch_3\.bin must be a file",
    ),
    "tar with a device": (
        CIFAR10(),
        lambda make, to: special_member(make, to, tarfile.CHRTYPE),
        r"data_batch_3\.bin must be a file",
    ),
    "tar with a folder for a batch": (
        CIFAR10(),
        lambda make, to: special_member(make, to, tarfile.DIRTYPE),
        r"data_batch_3\.bin must be a file",
    ),
    "pickle of another shape": (
        CIFAR10(),
        lambda make, to: cifar(
            make,
            to,
            lambda files: files.update(
                {"cifar-10-batches-py/data_batch_4": pickle.dumps({"data": np.zeros((2, 5), np.uint8)})}
            ),
            is_binary=False,
        ),
        "data must be bytes of shape",
    ),
    "pickle that claims an array": (
        CIFAR10(),
        lambda make, to: cifar(
            make,
            to,
            lambda files: files.update({"cifar-10-batches-py/data_batch_4": claimed_array(2000)}),
            is_binary=False,
        ),
        "must hold its arrays, but asks for one of 6,144,000 bytes in a file of",
    ),
    "pickle that claims all memory": (
        CIFAR10(),
        lambda make, to: cifar(
            make,
            to,
            lambda files: files.update({"cifar-10-batches-py/data_batch_4": claimed_array(2**31 - 1)}),
            is_binary=False,
        ),
        "data_batch_4: must (be a readable pickle|hold its arrays)",
    ),
    "pickle in a folder that is too large": (
        BOX,
        lambda make, to: imagenet_folder(make, to, pickle.dumps({"data": np.zeros(MANY, np.uint8)}), ""),
        TOO_LARGE,
    ),
    "npz empty": (BOX, lambda make, to: imagenet_folder(make, to, zipped(to / "x", {}).read_bytes()), "must be an npz"),
    "npz bomb": (BOX, lambda make, to: imagenet_folder(make, to, npz((683, 3072), bytes(683 * 3072))), TOO_LARGE),
    "npz that claims an array": (BOX, lambda make, to: imagenet_folder(make, to, npz((2000, 3072))), "must be an npz"),
    "npz that claims all memory": (
        BOX,
        lambda make, to: imagenet_folder(make, to, npz((2**40, 3072))),
        "GB free for the conversion",
    ),
    "zip of batches, truncated": (
        BOX,
        lambda make, to: without_middle(zipped(to / "x.zip", imagenet(make, to, b"PK"), zipfile.ZIP_STORED)),
        "must be a complete zip archive|must be readable",
    ),
    "zip of batches, bomb": (
        BOX,
        lambda make, to: zipped(to / "x.zip", imagenet(make, to, b"PK" + bytes(MANY))),
        TOO_LARGE,
    ),
    "folder empty": (OWN, lambda make, to: written(to / "images/readme.txt", b"x").parent, "must hold images"),
    "folder with a huge image": (
        OWN,
        lambda make, to: images(make, to, "z.png", huge_png(50_000, 50_000)),
        PNG_WORDS,
    ),
    "folder with a long image": (OWN, lambda make, to: images(make, to, "z.png", narrow_png()), "long and narrow"),
    "folder with a large file": (OWN, lambda make, to: images(make, to, "z.png", bytes(MANY)), TOO_LARGE),
    "folder with a pipe": (OWN, fifo, r"z\.png: must be a file"),
    "folder with a link to nowhere": (OWN, link_to_nowhere, r"z\.png: must be readable"),
    "zip empty": (OWN, lambda make, to: zipped(to / "x.zip", {}), "must hold images"),
    "zip truncated": (OWN, lambda make, to: half(zipped(to / "x.zip", {"a.png": bytes(999)})), "got another file"),
    "zip without its middle": (
        OWN,
        lambda make, to: without_middle(
            zipped(to / "x.zip", {f"{n}.png": os.urandom(99) for n in range(9)}, zipfile.ZIP_STORED)
        ),
        "must be a complete zip archive|must be readable",
    ),
    "zip bomb": (OWN, lambda make, to: zipped(to / "x.zip", {"a.png": bytes(MANY)}), TOO_LARGE),
    "zip with a huge image": (
        CelebA64(),
        lambda make, to: zipped(to / "x.zip", {"a.png": huge_png(50_000, 50_000)}),
        PNG_WORDS,
    ),
    "photographs with a huge image": (
        ImageNet32(),
        lambda make, to: images(make, to, "z.png", huge_png(50_000, 50_000)),
        PNG_WORDS,
    ),
    "churches with a huge image": (
        LSUNChurch64(),
        lambda make, to: images(make, to, "z.png", huge_png(50_000, 50_000)),
        PNG_WORDS,
    ),
    "table with a huge image": (
        Table(resolution=16),
        lambda make, to: parquet(make, to, huge_png(50_000, 50_000)),
        PNG_WORDS,
    ),
    "table truncated": (
        Table(resolution=16),
        lambda make, to: half(make.write_parquet(to / "x.parquet", make.pixels(9, 3, 16))),
        "must be a readable Parquet",
    ),
    "saved table that names a file elsewhere": (
        Table(resolution=16),
        lambda make, to: saved(make, to, "../secret.parquet"),
        "must name files of its own folder, got '../secret.parquet'",
    ),
    "saved table without its list": (
        Table(resolution=16),
        lambda make, to: written(to / "saved/state.json", b"{}").parent,
        "must list the data files, but KeyError",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_source_is_refused_and_leaves_nothing_behind(case, make, tmp_path, store, monkeypatch):
    monkeypatch.setattr(bounded, "MAX_BYTES", MANY // 2)
    dataset, maker, words = HOSTILE[case]
    path = maker(make, tmp_path)
    before = tree(tmp_path)
    with pytest.raises(DataError, match=words):
        prepare(dataset, path, trust=True)
    assert {file: size for file, size in tree(tmp_path).items() if file != store} == before


def test_names_that_lead_out_of_an_archive_lead_nowhere(make, tmp_path, store):
    files = make.cifar_batches(make.pixels(10, 3, 32), is_binary=True)
    out = {f"../../{Path(name).name}": data for name, data in files.items()}
    pictures = {f"/{number}.png": make.png(image) for number, image in enumerate(make.pixels(3, 3, 16))}
    pictures["../../hidden.png"] = b"is not even read"
    batches = {f"/../../{name}": data for name, data in imagenet(make, tmp_path, npz((0, 3072))).items()}
    sources = {
        CIFAR10(): make.write_tar(tmp_path / "in/c.tar.gz", out),
        Folder(path="own", resolution=16): zipped(tmp_path / "in/own.zip", pictures),
        BOX: zipped(tmp_path / "in/x.zip", batches),
    }
    before = tree(tmp_path)
    for dataset, path in sources.items():
        prepare(dataset, path, trust=True)
    after = {file: size for file, size in tree(tmp_path).items() if store not in (file, file.parent)}
    assert after == before
    assert {file.name for file in store.iterdir()} == {dataset.stored_at().name for dataset in sources}


@pytest.mark.skipif(importlib.util.find_spec("lmdb") is None, reason="needs the optional library lmdb")
class TestLMDB:
    @pytest.fixture
    def database(self, tmp_path, make):
        import lmdb

        def get(values):
            path = tmp_path / "church_outdoor_train_lmdb"
            with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as writer:
                for number, value in enumerate(values):
                    writer.put(f"{number:04d}".encode(), value)
            (path / "lock.mdb").unlink()
            return path

        return get

    @pytest.mark.parametrize("case", ["empty", "truncated", "of another kind", "with a huge image", "with no image"])
    def test_hostile_database_is_refused_and_leaves_nothing_behind(self, case, database, make, tmp_path, store):
        pictures = [make.png(image) for image in make.pixels(9, 3, 70)]
        last = {"with a huge image": [huge_png(50_000, 50_000)], "with no image": [b"x"]}
        path = database([] if case == "empty" else pictures + last.get(case, []))
        if case == "truncated":
            half(path / "data.mdb")
        elif case == "of another kind":
            written(path / "data.mdb", b"x" * 9999)
        words = {
            "empty": "must hold images, found none",
            "truncated": r"must be a complete LMDB, but data\.mdb ends too early",
            "of another kind": "must be an LMDB of images",
            "with a huge image": PNG_WORDS,
            "with no image": "must be an image that Pillow can read",
        }
        before = tree(tmp_path)
        with pytest.raises(DataError, match=words[case]):
            prepare(LSUNChurch64(), path, trust=True)
        assert {file: size for file, size in tree(tmp_path).items() if file != store} == before
