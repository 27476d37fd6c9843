"""Image files by name: in a folder, in a zip archive, in an LMDB."""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from gcsearch.data.bounded import read_all
from gcsearch.errors import DataError

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Encoded images that can be read by name.

    Attributes:
        names: Names in their order.
        identity: Changes when an image does.
        description: What it is, without folders of this machine.
        read: Bytes of an image; may be called from several threads.
    """

    names: Sequence[str]
    identity: str
    description: str
    read: Callable[[str], bytes]


def open_collection(path: Path) -> Collection:
    """Images under a folder (at any depth), or in a zip archive.

    Raises:
        DataError: There is nothing, or no image.
    """
    if path.is_dir():
        collection = _folder(path)
    elif zipfile.is_zipfile(path):
        collection = _zip(path)
    elif path.exists():
        raise DataError(f"{path}: must be a folder of images or a zip archive, got another file.")
    else:
        raise DataError(f"{path}: must be a folder of images or a zip archive, found nothing there.")
    if not collection.names:
        raise DataError(f"{path}: must hold images ({', '.join(SUFFIXES)}), found none.")
    return collection


def open_lmdb(path: Path) -> Collection:
    """Images of an LMDB, in the order of its keys.

    Raises:
        DataError: It cannot be read, or the library is missing.
    """
    try:
        import lmdb
    except ImportError:
        raise DataError(
            f"{path}: an LMDB needs the library lmdb, which is not installed. "
            "Run pip install 'gcsearch[lmdb]', or export the images to a folder."
        ) from None
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
        # A page beyond the end of a mapped file ends the process.
        pages, size = environment.info()["last_pgno"] + 1, (path / "data.mdb").stat().st_size
        if pages * environment.stat()["psize"] > size:
            raise DataError(f"{path}: must be a complete LMDB, but data.mdb ends too early. Download it again.")
        with environment.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise DataError(f"{path}: must be an LMDB of images, but {error}.") from None
    if not keys:
        raise DataError(f"{path}: must hold images, found none.")
    names = {key.hex(): key for key in keys}

    def read(name: str) -> bytes:
        with environment.begin() as transaction:
            return bytes(transaction.get(names[name]))

    return Collection(
        names=list(names), identity=identity_of([*names, str(size)]), description=f"{path.name} (LMDB)", read=read
    )


def _folder(path: Path) -> Collection:
    found = []
    for directory, _, files in os.walk(path):
        for name in files:
            file = Path(directory, name)
            relative = file.relative_to(path)
            if not _is_image(relative.as_posix()):
                continue
            try:
                status = file.stat()
            except OSError as error:  # a link to nowhere
                raise DataError(f"{file}: must be readable, but {error.strerror}. Repair or remove it.") from None
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{file}: must be a file, got something that only has the name of one. Remove it.")
            found.append((relative.as_posix(), status))
    # Sorted by name: the order in which a file system lists files differs from machine to machine.
    found.sort(key=lambda entry: entry[0])
    identity = identity_of(f"{name}\0{status.st_size}\0{status.st_mtime_ns}" for name, status in found)

    def read(name: str) -> bytes:
        try:
            with (path / name).open("rb") as file:
                return read_all(file, str(path / name))
        except OSError as error:
            raise DataError(f"{path / name}: must be readable, but {error.strerror}.") from None

    names = [name for name, _ in found]
    return Collection(names=names, identity=identity, description=f"{path.resolve().name}/ (folder)", read=read)


def _zip(path: Path) -> Collection:
    archive = open_zip(path)
    members = sorted((info for info in archive.infolist() if _is_image(info.filename)), key=lambda info: info.filename)
    identity = identity_of(f"{info.filename}\0{info.file_size}\0{info.CRC}" for info in members)

    def read(name: str) -> bytes:
        try:
            with archive.open(name) as file:
                return read_all(file, f"{path}: {name}")
        except (
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
            EOFError,
            OSError,
            zlib.error,
            lzma.LZMAError,
        ) as error:
            raise DataError(f"{path}: {name} must be readable, but {error}.") from None

    names = [info.filename for info in members]
    return Collection(names=names, identity=identity, description=f"{path.name} (zip archive)", read=read)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Zip archive; nothing of it is unpacked to disk.

    Raises:
        DataError: Its directory is damaged.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise DataError(f"{path}: must be a complete zip archive, but {error}. Download it again.") from None


def _is_image(name: str) -> bool:
    """By its suffix; hidden files, and what macOS puts into archives, are not meant."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(SUFFIXES)


def identity_of(entries: Iterable[str]) -> str:
    """Hash of a list of texts."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(entry.encode("utf-8", "surrogateescape") + b"\0\0")
    return digest.hexdigest()
