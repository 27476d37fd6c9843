"""Where files of ours lie, and writing them so that a reader, or a crash, never meets half of one.

A training that runs on another machine than its recipe was read on finds the files it needs in one of three ways: they
are at the same place there (a shared file system), at that machine's own place, or they are copied, once per machine.
Components ask `supplied`, and know of none of this.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gcsearch.errors import DataError

EDGE: Final = 1 << 20
"""Bytes at each end of a file that `mark` reads."""

_supplied: dict[str, Path] = {}


def default_cache_dir() -> Path:
    """`$GCSEARCH_CACHE`, or `~/.cache/gcsearch`: what can be computed again."""
    return Path(os.environ.get("GCSEARCH_CACHE") or Path.home() / ".cache" / "gcsearch")


def default_data_dir() -> Path:
    """`$GCSEARCH_DATA`, or `data` in the cache: the image store."""
    return Path(os.environ.get("GCSEARCH_DATA") or default_cache_dir() / "data")


def model_file(path: Path) -> Path:
    """File with the weights of a model that is named by a checkpoint, an export's weights or an export's folder."""
    return path / "model.safetensors" if path.is_dir() else path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what was written there becomes `path` when the block succeeds.

    The name is random rather than the process number, which is not unique on a file system that machines share.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace the content of a text file, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def supply(places: Mapping[str, Path]) -> None:
    """Say where this process finds files of components, instead of at their own places; replaces what was said before.

    Args:
        places: By the names of `gcsearch.registry.Component.files`.
    """
    _supplied.clear()
    _supplied.update(places)


def supplied(name: str) -> Path | None:
    """Where `supply` said that a file is."""
    return _supplied.get(name)


def mark(path: Path) -> str | None:
    """What tells files apart without reading them whole: hash of size, first and last megabyte; None without a file.

    Enough for what is carried: a file of the image store ends with its metadata, in which the hash of all pixels is,
    and a file that torch saved ends with a checksum of every tensor.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.sha256(f"{size} ".encode())
            for start in (0, max(0, size - EDGE)):
                file.seek(start)
                digest.update(file.read(EDGE))
    except OSError:  # none there, or not ours to read
        return None
    return digest.hexdigest()


def receive(path: Path, size: int, sha256: str, chunks: Callable[[], Iterable[Any]]) -> None:
    """Make a copy of a file of another machine, unless it is there: once, however many processes want it.

    Args:
        path: The copy; it appears when it is complete.
        size: Bytes of the file.
        sha256: Hash of the file.
        chunks: Gives the content, piece by piece; called by the process that writes.

    Raises:
        DataError: The folder cannot be written to, has no room, or the content is not what was announced.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return
            for stale in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed
                stale.unlink()
            free = shutil.disk_usage(path.parent).free
            if size > free:
                raise DataError(
                    f"{path.parent}: there must be {size / 1e9:.1f} GB free for a copy of {path.name}, got "
                    f"{free / 1e9:.1f} GB. Make room on this machine, or name another folder with GCSEARCH_CACHE there."
                )
            digest = hashlib.sha256()
            with replacing(path) as temporary:
                with temporary.open("wb") as file:
                    for chunk in chunks():
                        digest.update(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                if digest.hexdigest() != sha256:
                    raise DataError(
                        f"{path}: the copy must have the sha256 {sha256[:12]}…, got {digest.hexdigest()[:12]}…. The "
                        "file was changed while it was copied; run the same command again."
                    )
    except OSError as error:
        raise DataError(
            f"{path}: must be copied from the machine of the study, but: {error}. Let this machine write there, or "
            "name another folder with GCSEARCH_CACHE there."
        ) from None
