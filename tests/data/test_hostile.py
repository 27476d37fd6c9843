"""Damaged and hostile sources of every data set: a clear error, nothing run, nothing unpacked, nothing left behind."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import tarfile
import zipfile
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

from .hostile import (
    BOX,
    MANY,
    OWN,
    PNG_WORDS,
    cifar,
    claimed_array,
    fifo,
    half,
    huge_png,
    imagenet,
    imagenet_folder,
    images,
    link_to_nowhere,
    narrow_png,
    npz,
    parquet,
    saved,
    special_member,
    tree,
    without_middle,
    written,
    zipped,
)

IDX = struct.pack(">4I", 2051, 1, 28, 28) + bytes(784)
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
