"""A folder of studies on a pyarrow filesystem, with its copy on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import fs

from gcsearch.errors import StudyError
from gcsearch.files import default_cache_dir, replacing, write_text
from gcsearch.ledger import ENDED, LEDGER_NAME, read_state

LOCK_NAME: Final = "lock.json"
INDEX_NAME: Final = ".mirror.json"
"""What the local copy of a study remembers of each file: its own time and size, and the time of the file there."""

OBJECT_STORES: Final = ("s3", "gcs", "abfs")
"""Filesystems where a file appears when it is complete, and where folders need not be made."""

CHUNK_BYTES: Final = 1 << 23


def is_uri(studies: str) -> bool:
    """Whether this names a filesystem rather than a folder."""
    return "://" in studies


class RemoteStudies:
    """A folder of studies elsewhere.

    Args:
        uri: The folder, e.g. ``s3://bucket/studies``. Credentials come from where the filesystem looks for them
            (environment, configuration, role).
        cache: Where copies lie; default: `gcsearch.files.default_cache_dir`.

    Attributes:
        local: The copy: a folder of studies as any other.

    Raises:
        StudyError: There is no such filesystem.
    """

    def __init__(self, uri: str, cache: Path | None = None) -> None:
        self.uri = uri.rstrip("/")
        try:
            self.fs, root = fs.FileSystem.from_uri(self.uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StudyError(
                f"--studies {uri}: must be a folder, or a URI of a filesystem that pyarrow knows (s3, gs, abfs, hdfs, "
                f"file), but: {reason(error)}."
            ) from None
        self.root = root.rstrip("/")
        digest = hashlib.sha256(self.uri.encode()).hexdigest()[:16]
        self.local = (cache or default_cache_dir()) / "studies" / digest / "studies"

    def names(self) -> list[str]:
        """Studies that are there."""
        selector = fs.FileSelector(self.root, allow_not_found=True)
        found = self._ask(lambda: self.fs.get_file_info(selector))
        folders = [info.base_name for info in found if info.type == fs.FileType.Directory]
        return sorted(name for name in folders if self.exists(f"{name}/{LEDGER_NAME}"))

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        return bool(self._ask(lambda: self.fs.get_file_info(f"{self.root}/{path}").is_file))

    def read(self, path: str) -> bytes:
        """Content of a file."""

        def content() -> bytes:
            with self.fs.open_input_stream(f"{self.root}/{path}", compression=None) as stream:
                return bytes(stream.read())

        return bytes(self._ask(content))

    def fetch(self, path: str) -> None:
        """Copy one file into the local folder, all or nothing."""

        def copy() -> None:
            with (
                replacing(self.local / path) as temporary,
                self.fs.open_input_stream(f"{self.root}/{path}", compression=None) as source,
                temporary.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, CHUNK_BYTES)

        self._ask(copy)

    def send(self, path: str, content: bytes | None = None) -> None:
        """Copy one file of the local folder there, all or nothing; or `content` instead of what it holds.

        Raises:
            OSError: It cannot be written; pyarrow's errors are among these.
        """
        target = temporary = f"{self.root}/{path}"
        if self.fs.type_name not in OBJECT_STORES:
            self.fs.create_dir(target.rpartition("/")[0], recursive=True)
            temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        with self.fs.open_output_stream(temporary, compression=None) as stream:
            if content is not None:
                stream.write(content)
            else:
                with (self.local / path).open("rb") as source:
                    shutil.copyfileobj(source, stream, CHUNK_BYTES)
        if temporary != target:
            self.fs.move(temporary, target)

    def delete(self, path: str) -> None:
        """Remove one file, if it is there."""
        if self.exists(path):
            self._ask(lambda: self.fs.delete_file(f"{self.root}/{path}"))

    def modified(self, path: str) -> int:
        """Time of a file there, in ns; 0 if the filesystem does not tell."""
        return int(self._ask(lambda: self.fs.get_file_info(f"{self.root}/{path}")).mtime_ns or 0)

    def pull(self, name: str, *, checkpoints: bool = False) -> Path:
        """Bring the local copy of a study up to date.

        Args:
            name: The study. One that is not there yet is no error.
            checkpoints: Whether to fetch the checkpoints of ended trials too. Those of trials that may go on are
                always fetched.

        Returns:
            Its local folder.

        Raises:
            StudyError: Two machines have continued the study from the same state; or the filesystem fails.
        """
        folder = self.local / name
        if not self.exists(f"{name}/{LEDGER_NAME}"):
            return folder
        is_ahead = self._ledger_is_ahead(name)
        if not is_ahead:
            self.fetch(f"{name}/{LEDGER_NAME}")
        ended = {record.trial for record in read_state(folder / LEDGER_NAME).of_state(*ENDED)}
        index = read_index(folder)
        for info in self._ask(lambda: self.fs.get_file_info(fs.FileSelector(f"{self.root}/{name}", recursive=True))):
            path = info.path[len(self.root) + 1 :]
            parts = path.split("/")[1:]
            if not info.is_file or parts[-1] in (LEDGER_NAME, LOCK_NAME) or parts[-1].endswith(".tmp"):
                continue
            if not checkpoints and "checkpoints" in parts and parts[1] in ended:
                continue
            here, remembered = stamp(self.local / path), index.get(path)
            is_same_there = remembered is not None and remembered[2] == (info.mtime_ns or 0)
            is_changed_here = here is not None and (remembered is None or here != remembered[:2])
            if here is not None and (is_same_there or (is_changed_here and is_ahead)):
                continue
            self.fetch(path)
            index[path] = [*(stamp(self.local / path) or (0, 0)), info.mtime_ns or 0]
        write_index(folder, index)
        return folder

    def _ledger_is_ahead(self, name: str) -> bool:
        """Whether the local ledger holds all that is there: its driver may have died before it sent the rest."""
        path = self.local / name / LEDGER_NAME
        if not path.exists():
            return False
        here, there = path.read_bytes(), self.read(f"{name}/{LEDGER_NAME}")
        here = here[: here.rfind(b"\n") + 1]
        if here.startswith(there):
            return True
        if there.startswith(here):
            return False
        raise StudyError(
            f"{self.uri}/{name}: two machines have continued this study from the same state, so there are two ledgers. "
            f"To go on with the one that is there, remove this machine's copy, {self.local / name}."
        )

    def _ask(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except (pa.ArrowException, OSError) as error:
            raise StudyError(f"--studies {self.uri}: the filesystem must answer, but: {reason(error)}.") from None


def stamp(path: Path) -> list[int] | None:
    """Time in ns and size of a file of this machine; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_mtime_ns, status.st_size]


def read_index(folder: Path) -> dict[str, list[int]]:
    """What a local copy remembers of each file: its time, its size, the time of the file there."""
    try:
        return dict(json.loads((folder / INDEX_NAME).read_text()))
    except (FileNotFoundError, ValueError):
        return {}  # then every file is compared by being copied


def write_index(folder: Path, index: dict[str, list[int]]) -> None:
    """Remember it."""
    write_text(folder / INDEX_NAME, json.dumps(index))


def reason(error: BaseException) -> str:
    """First line of an error, without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
