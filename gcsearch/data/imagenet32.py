"""ImageNet at 32 x 32: the published downsampled batches, or the original photographs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final, Literal

import numpy as np

from gcsearch.data.base import datasets
from gcsearch.data.bounded import check_size
from gcsearch.data.cifar10 import planes
from gcsearch.data.conversion import Pixels, Source
from gcsearch.data.decoding import Decoder
from gcsearch.data.image_files import identity_of, open_collection, open_zip
from gcsearch.data.image_set import ImageSet, decoded
from gcsearch.data.unpickling import load_arrays
from gcsearch.errors import DataError

NUM_BATCHES: Final = 10
CHUNK: Final = 2000


@datasets.register("imagenet32")
@dataclass(frozen=True, kw_only=True)
class ImageNet32(ImageSet):
    """1,281,167 photographs of a thousand kinds of things, 32 x 32.

    Attributes:
        resize: How the photographs became small. ``bilinear``: from the original files, shorter side to 32 and centre
            crop, as the GC paper does. ``box``: the published batches of Chrabaszcz et al., squeezed to a square.
            The two are different data: their scores are never compared.

    Source: Deng et al. 2009; Chrabaszcz, Loshchilov and Hutter 2017 (arXiv:1707.08819) for the batches.
    """

    resize: Literal["bilinear", "box"] = "bilinear"
    resolution = 32
    wanted = (
        "the folder of the training photographs (ILSVRC2012), or, with --set resize=box, Imagenet32_train_npz.zip, "
        "Imagenet32_train.zip or the folder that one of them unpacks to"
    )
    licence = "research only, after registration"
    homepage = "https://image-net.org/download-images.php"
    num_published = 1_281_167

    @property
    def file_stem(self) -> str:
        return f"imagenet32-{self.resize}"

    def open_source(self, path: Path, *, trust: bool) -> Source:
        batches = find_batches(path)
        if batches and self.resize != "box":
            raise DataError(
                f"{path}: the downsampled batches are the data {{name: imagenet32, resize: box}}. "
                f"Run {ImageNet32(resize='box').prepare_command(str(path))}, and set data.resize=box in the experiment."
            )
        if batches:
            return self._batches(path, batches, trust=trust)
        if self.resize == "box":
            raise DataError(f"{path}: must hold train_data_batch_1 to train_data_batch_{NUM_BATCHES}, found none.")
        photographs = open_collection(path)
        verification = self.published(len(photographs.names), trust=trust)
        return decoded(photographs, Decoder(resolution=32, filter="bilinear"), verification)

    def _batches(self, path: Path, batches: dict[str, Callable[[], IO[bytes]]], *, trust: bool) -> Source:
        first = next(iter(batches))
        counts = [_npz_count(open_batch(), f"{path}: {name}") for name, open_batch in batches.items()]
        known = [count for count in counts if count is not None]
        # The count of pickles is known only after all are read; then it is what the file of the store says.
        count = sum(known) if len(known) == len(batches) else None

        def read(start: int) -> Iterator[Pixels]:
            position = 0
            for (name, open_batch), size in zip(batches.items(), counts, strict=True):
                if size is not None and position + size <= start:
                    position += size
                    continue
                images = _images(open_batch(), f"{path}: {name}")
                skip = min(max(0, start - position), len(images))
                position += len(images)
                for row in range(skip, len(images), CHUNK):
                    yield images[row : row + CHUNK]

        return Source(
            shape=(3, 32, 32),
            count=count,
            description=f"{path.name}: {first} and {len(batches) - 1} more",
            identity=identity_of(f"{name}\0{_size(open_batch())}" for name, open_batch in batches.items()),
            verification="not verified: no checksum is published"
            if count is None
            else self.published(count, trust=trust),
            preprocessing="none; published at 32 x 32",
            read=read,
        )


def find_batches(path: Path) -> dict[str, Callable[[], IO[bytes]]]:
    """Openers of the ten training batches in a folder or zip archive, in order; empty if they are not there."""
    files: dict[str, Callable[[], IO[bytes]]] = {}
    if zipfile.is_zipfile(path):
        archive = open_zip(path)
        files = {Path(info.filename).name: partial(_open_member, archive, info, path) for info in archive.infolist()}
    elif path.is_dir():
        files = {file.name: partial(_open, file) for file in path.iterdir() if file.is_file()}
    for suffix in (".npz", ""):
        wanted = [f"train_data_batch_{number}{suffix}" for number in range(1, NUM_BATCHES + 1)]
        present = [name for name in wanted if name in files]
        if present and len(present) < NUM_BATCHES:
            missing = ", ".join(name for name in wanted if name not in files)
            raise DataError(f"{path}: must hold all {NUM_BATCHES} training batches, but {missing} is missing.")
        if present:
            return {name: files[name] for name in wanted}
    return {}


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> IO[bytes]:
    check_size(info.file_size, f"{path}: {info.filename}")
    try:
        return archive.open(info)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
        raise DataError(f"{path}: {info.filename} must be readable, but {error}. Download it again.") from None


def _npz_count(file: IO[bytes], where: str) -> int | None:
    """Images in an npz batch, from the header of its array; None for a pickle."""
    try:
        with file:
            if file.read(2) != b"PK":
                return None
            file.seek(0)
            with zipfile.ZipFile(file) as archive, archive.open("data.npy") as array:
                check_size(archive.getinfo("data.npy").file_size, where)
                version = np.lib.format.read_magic(array)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, _ = header[version](array)
                return int(shape[0])
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{where} must be an npz file with the array 'data', but {error}.") from None


def _images(file: IO[bytes], where: str) -> Pixels:
    """Images of a batch, npz or pickle; a batch is the least that can be read (400 MB)."""
    with closing(file):
        is_npz = file.read(2) == b"PK"
        file.seek(0)
        if not is_npz:
            return planes(load_arrays(file, where).get("data"), 32, where)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return planes(arrays["data"], 32, where)
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError, MemoryError, zlib.error) as error:
            raise DataError(f"{where} must be an npz file with the array 'data', but {error}.") from None


def _size(file: IO[bytes]) -> int:
    with file:
        return file.seek(0, 2)
