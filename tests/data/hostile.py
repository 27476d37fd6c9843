"""Makers of damaged and hostile sources of data sets."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np

from gcsearch.data.folder import Folder
from gcsearch.data.imagenet32 import ImageNet32

MANY = 1 << 21
"""Bytes that are too many here, since the tests lower the limit to half of that."""

BOX = ImageNet32(resize="box")
OWN = Folder(resolution=16)

PNG_WORDS = r"must be an image that Pillow can read, but Image size \(2500000000 pixels\) exceeds limit"


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
