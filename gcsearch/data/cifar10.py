"""CIFAR-10 from its published archives."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from gcsearch.data.base import datasets
from gcsearch.data.bounded import check_size, read_all
from gcsearch.data.conversion import Pixels, Progress, Source
from gcsearch.data.download import download, md5_of
from gcsearch.data.image_set import ImageSet
from gcsearch.data.unpickling import load_arrays
from gcsearch.errors import DataError

URL: Final = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5: Final = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
}
PYTHON_MD5: Final = (
    "c99cafc152244af753f735de768cd75f",
    "d4bba439e000b95fd0a9bffe97cbabec",
    "54ebc095f3ab1f0389bbae665268c751",
    "634d18415352ddfa80567beed471001a",
    "482c414d41f54cd18b22e5b47cb7c3cb",
)
"""Of data_batch_1 to data_batch_5 of the Python version; none are published for the binary one."""

NUM_BATCHES: Final = 5
PIXELS: Final = 3 * 32 * 32
CHUNK: Final = 2000

Opener = Callable[[str], IO[bytes]]


@datasets.register("cifar10")
@dataclass(frozen=True, kw_only=True)
class CIFAR10(ImageSet):
    """50,000 colour photographs of ten kinds of things, 32 x 32.

    The binary and the Python archive hold the same images in the same order, so they give the same pixels.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images", training part.
    """

    resolution = 32
    wanted = "cifar-10-binary.tar.gz, cifar-10-python.tar.gz, or the folder that one of them unpacks to"
    licence = "none stated"
    homepage = "https://www.cs.toronto.edu/~kriz/cifar.html"
    num_published = 50_000

    @property
    def file_stem(self) -> str:
        return "cifar10-32"

    def find_source(self, directory: Path, progress: Progress) -> Path:
        try:
            name = "cifar-10-binary.tar.gz"
            return download(URL, directory / name, md5=MD5[name], progress=progress)
        except DataError as error:
            raise DataError(
                f"data 'cifar10': {error} Without a network, run "
                f"{self.prepare_command('PATH')}, where PATH is {self.wanted}."
            ) from None

    def open_source(self, path: Path, *, trust: bool) -> Source:
        names = _names(path)
        is_binary = names[0].endswith(".bin")
        with _batches(path) as open_batch:
            counts = [_count(open_batch(name), f"{path}: {name}") if is_binary else None for name in names]
        verification, identity = _verify(path, names, trust=trust)
        known = [count for count in counts if count is not None]

        def read(start: int) -> Iterator[Pixels]:
            position = 0
            with _batches(path) as open_batch:
                for name in names:
                    parse = _binary if is_binary else _pickled
                    images = parse(open_batch(name), f"{path}: {name}")
                    skip = min(max(0, start - position), len(images))
                    position += len(images)
                    for first in range(skip, len(images), CHUNK):
                        yield images[first : first + CHUNK]

        return Source(
            shape=(3, 32, 32),
            count=sum(known) if is_binary else None,  # of pickles, it is known when all are read
            description=path.name,
            identity=identity,
            verification=verification,
            preprocessing="none",
            read=read,
        )


def _names(path: Path) -> list[str]:
    """Names of the training batches inside the archive or folder, in order."""
    if path.is_dir():
        inside = [file.name for file in path.iterdir() if file.is_file()]
    else:
        if not path.is_file():
            raise DataError(f"{path}: must be {CIFAR10.wanted}, found nothing there.")
        inside = []
        with _archive(path) as archive:
            for member in archive:
                check_size(member.offset_data + member.size, str(path))  # before it is passed over
                inside.append(member.name)
    for suffix in (".bin", ""):
        wanted = [f"data_batch_{number}{suffix}" for number in range(1, NUM_BATCHES + 1)]
        found = {name.rsplit("/", 1)[-1]: name for name in inside}
        if all(name in found for name in wanted):
            return [found[name] for name in wanted]
    raise DataError(f"{path}: must hold data_batch_1 to data_batch_5, with or without .bin; they are not all there.")


@contextmanager
def _archive(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path) as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise DataError(f"{path}: must be a complete tar archive, but {error}. Download it again.") from None


@contextmanager
def _batches(path: Path) -> Iterator[Opener]:
    """Opens batches by name; nothing is unpacked to disk."""
    if path.is_dir():
        yield lambda name: (path / name).open("rb")
        return
    with _archive(path) as archive:

        def open_member(name: str) -> IO[bytes]:
            member = archive.getmember(name)
            file = archive.extractfile(member) if member.isreg() else None  # links may lead in circles
            if file is None:
                raise DataError(f"{path}: {name} must be a file.")
            return file

        yield open_member


def _verify(path: Path, names: list[str], *, trust: bool) -> tuple[str, str]:
    """Words on the checksum, and what identifies the source."""
    if path.is_dir():
        sums = tuple(md5_of(path / name) for name in names)
        if sums == PYTHON_MD5:
            return "md5 of all batches as published", sums[0]
        identity = " ".join(sums)
        if names[0].endswith(".bin"):
            return "not verified: no checksum of single binary batches is published", identity
    else:
        identity = md5_of(path)
        if identity in MD5.values():
            return "md5 as published", identity
    if not trust:
        raise DataError(
            f"{path}: must have the published md5 ({', '.join(MD5.values())}), got {identity}. Download it again; "
            "or take it as it is with --trust."
        )
    return "not verified: md5 differs from the published one", identity


def _count(file: IO[bytes], where: str) -> int:
    with file:
        size = file.seek(0, 2)
    if size == 0 or size % (PIXELS + 1):
        raise DataError(f"{where} must hold records of {PIXELS + 1} bytes, got {size} bytes. Download it again.")
    return size // (PIXELS + 1)


def _binary(file: IO[bytes], where: str) -> Pixels:
    """Images of a binary batch: records of a label and 3072 pixels, red plane first."""
    with file:
        records = np.frombuffer(read_all(file, where), np.uint8).reshape(-1, PIXELS + 1)
    return records[:, 1:].reshape(-1, 3, 32, 32)


def _pickled(file: IO[bytes], where: str) -> Pixels:
    """Images of a batch of the Python version."""
    with file:
        return planes(load_arrays(file, where).get("data"), 32, where)


def planes(data: object, side: int, where: str) -> Pixels:
    """Rows of 3 * side^2 bytes, red plane first, as images (N, 3, side, side)."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * side**2:
        got = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{where}: data must be bytes of shape [N, {3 * side**2}], got {got}.")
    return data.reshape(-1, 3, side, side)
