"""Fashion-MNIST from its IDX files."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from gcsearch.data.base import datasets
from gcsearch.data.bounded import read_all
from gcsearch.data.conversion import Pixels, Progress, Source
from gcsearch.data.download import download
from gcsearch.data.image_set import ImageSet
from gcsearch.errors import DataError

NAME: Final = "train-images-idx3-ubyte"
URL: Final = f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/{NAME}.gz"
MD5_PACKED: Final = "8d4fb7e6c68d591d4c3dfef9ec88bf0d"
MD5: Final = "f4a8712d7a061bf5bd6d2ca38dc4d50a"
"""Of the file without gzip, which Debian packs differently."""

DEBIAN: Final = Path("/usr/share/datasets/fashion-mnist")

CHUNK: Final = 2048


@datasets.register("fashion_mnist")
@dataclass(frozen=True, kw_only=True)
class FashionMNIST(ImageSet):
    """60,000 grey photographs of clothing.

    Attributes:
        resolution: 28, or 32 with a black border of two pixels, which networks can halve more often.

    Source: Xiao, Rasul and Vollgraf 2017 (arXiv:1708.07747), training part.
    """

    resolution: int = 28
    default_extractor = "fashion_mnist"
    wanted = f"{NAME}.gz, or the folder that holds it (Debian: apt-get install dataset-fashion-mnist)"
    licence = "MIT"
    homepage = "https://github.com/zalandoresearch/fashion-mnist"
    num_published = 60_000

    def __post_init__(self) -> None:
        if self.resolution not in (28, 32):
            raise ValueError(f"resolution must be 28 or 32, got {self.resolution}")

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (1, self.resolution, self.resolution)

    @property
    def file_stem(self) -> str:
        return f"fashion_mnist-{self.resolution}"

    def find_source(self, directory: Path, progress: Progress) -> Path:
        if DEBIAN.is_dir():
            return DEBIAN
        try:
            return download(URL, directory / f"{NAME}.gz", md5=MD5_PACKED, progress=progress)
        except DataError as error:
            raise DataError(
                f"data 'fashion_mnist': {error} Without a network, run "
                f"{self.prepare_command('PATH')}, where PATH is {self.wanted}."
            ) from None

    def open_source(self, path: Path, *, trust: bool) -> Source:
        images, digest = read_idx(_file(path))
        if digest != MD5 and not trust:
            raise DataError(
                f"{path}: {NAME} must have the md5 {MD5} (unpacked), got {digest}. Download it again; "
                "or take it as it is with --trust."
            )
        border = (self.resolution - images.shape[1]) // 2
        if images.shape[1:] != (28, 28):
            raise DataError(f"{path}: images must be 28 x 28, got {images.shape[1]} x {images.shape[2]}.")

        def read(start: int) -> Iterator[Pixels]:
            for first in range(start, len(images), CHUNK):
                chunk = images[first : first + CHUNK, None]
                yield np.pad(chunk, ((0, 0), (0, 0), (border, border), (border, border)))

        return Source(
            shape=(1, self.resolution, self.resolution),
            count=len(images),
            description=f"{NAME}, md5 {digest}",
            identity=digest,
            verification="md5 as published" if digest == MD5 else "not verified: md5 differs from the published one",
            preprocessing=f"border of {border} black pixels" if border else "none",
            read=read,
        )


def _file(path: Path) -> Path:
    candidates = [path / NAME, path / f"{NAME}.gz"] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"{path}: must be {NAME}, {NAME}.gz or the folder that holds one of them, found neither.")


def read_idx(path: Path) -> tuple[Pixels, str]:
    """Images (N, H, W) of an IDX file, gzipped or not, and the md5 of the file without gzip.

    Format: the number 2051 (bytes, three dimensions), N, H, W as big-endian 32-bit integers, then the pixels.
    """
    try:
        with path.open("rb") as raw:
            is_packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_packed else path.open("rb") as file:
            data = read_all(file, str(path))
        magic, *shape = struct.unpack(">4I", data[:16])
        if magic != 2051:
            raise ValueError(f"its first number is {magic}, not 2051")
        return np.frombuffer(data, np.uint8, offset=16).reshape(shape), hashlib.md5(data).hexdigest()
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise DataError(f"{path}: must be an IDX file of images, but {error}.") from None
