"""Files of trials on machines that do not see the study's folder.

Where a machine sees the folder (the driver's own, or a shared file system), a trial works in it. Elsewhere it works in
a folder of its machine, and a process beside the driver hands it the checkpoints it goes on from, and takes each file
as soon as it is written: before the result is reported that the file belongs to. So a lost machine loses nothing that
the ledger speaks of.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gcsearch.errors import is_disk_full

CHUNK_BYTES: Final = 1 << 25
"""What is sent at a time: large enough for speed, small beside the memory of a machine."""

WORKSPACES: Final = "gcsearch-trials"


class Keeper:
    """Reads and writes files below a folder for others; runs beside the driver.

    Args:
        root: Folder of the study.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self._latest: dict[str, int] = {}

    def size(self, path: str) -> int | None:
        """Size of a file in bytes; None if there is none."""
        file = self._inside(path)
        return file.stat().st_size if file.is_file() else None

    def chunk(self, path: str, offset: int) -> bytes:
        """A piece of a file."""
        with self._inside(path).open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)

    def keep(self, path: str, start: int, offset: int, content: bytes, is_last: bool) -> str | None:
        """Take a piece of a file; the file appears when it is complete.

        Args:
            path: Where it goes.
            start: Number of the trial's start that sends it: what an earlier start sends late is not taken.
            offset: Where in the file the piece belongs. Pieces come in order.
            content: The piece.
            is_last: Whether it is the last one.

        Returns:
            Why it is not taken: ``"late"`` or ``"full"`` (the disk); None if it is.
        """
        target = self._inside(path)
        trial = target.relative_to(self.root).parts[:2]
        newest = self._latest.setdefault("/".join(trial), start)
        if start < newest:
            return "late"
        self._latest["/".join(trial)] = start
        part = target.with_name(f".{target.name}.{start}.part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("r+b" if offset else "wb") as file:
                file.seek(offset)
                file.write(content)
                if is_last:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            part.unlink(missing_ok=True)
            if is_disk_full(error):
                return "full"
            raise
        if is_last:
            part.replace(target)
        return None

    def _inside(self, path: str) -> Path:
        file = (self.root / path).resolve()
        if not file.is_relative_to(self.root.resolve()):
            raise ValueError(f"{path} is outside of the study's folder.")
        return file


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """The study's folder as a trial's process finds it; travels with its configuration.

    Attributes:
        root: Folder of the study, as the driver sees it.
        mark: File in it that only this driver has written: who can read it sees the folder.
        keeper: Handle of the process beside the driver.
    """

    root: str
    mark: str
    keeper: Any

    def is_visible(self) -> bool:
        """Whether this machine sees the study's folder."""
        return (Path(self.root) / self.mark).is_file()

    @contextmanager
    def workspace(self, directory: str, start: int) -> Iterator[Workspace]:
        """Where a trial works on this machine.

        Args:
            directory: Folder of the trial, as the driver sees it.
            start: Number of the trial's start; larger for later ones.
        """
        if self.is_visible():
            yield Workspace(directory=Path(directory))
            return
        relative = Path(directory).relative_to(self.root).as_posix()
        # The name of the mark differs between drivers, so that what an earlier one left is never taken for current.
        base = Path(tempfile.gettempdir()) / WORKSPACES
        folder = base / f"{self.mark.removeprefix('.')}-{start}" / relative
        with _in_use(folder):
            _remove_unused(base)
            workspace = Workspace(directory=folder, home=self, path=relative, start=start)
            workspace.fetch()
            try:
                yield workspace
            finally:
                shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Folder in which a trial works on this machine.

    Attributes:
        directory: The folder.
        home: Where its files go; None if the driver sees the folder.
        path: The trial's folder below the study's.
        start: Number of the trial's start.
    """

    directory: Path
    home: StudyFolder | None = None
    path: str = ""
    start: int = 0

    def fetch(self) -> None:
        """Get the checkpoints that the trial goes on from."""
        import ray

        assert self.home is not None
        keeper = self.home.keeper
        for name in ("checkpoints/latest.pt", "checkpoints/best.pt"):
            source, target = f"{self.path}/{name}", self.directory / name
            size = ray.get(keeper.size.remote(source))
            if size is None:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                while file.tell() < size:
                    file.write(ray.get(keeper.chunk.remote(source, file.tell())))

    def publish(self, path: Path) -> None:
        """Bring a file that was written here to the driver. It is there when this returns.

        Raises:
            OSError: The disk is full there.
        """
        if self.home is None:
            return
        import ray

        size, offset = path.stat().st_size, 0
        target = f"{self.path}/{path.relative_to(self.directory).as_posix()}"
        with path.open("rb") as file:
            while True:
                content = file.read(CHUNK_BYTES)
                end = offset + len(content)
                answer = ray.get(self.home.keeper.keep.remote(target, self.start, offset, content, end >= size))
                if answer == "full":
                    raise OSError(errno.ENOSPC, "no space left on the driver's disk", self.home.root)
                offset = end
                if answer == "late" or offset >= size:
                    return


@contextmanager
def open_workspace(folder: bytes, directory: Path, start: int) -> Iterator[Workspace]:
    """Where the process of a trial that reads and writes its files works.

    Args:
        folder: From `open_folder`; empty if there is only the driver's machine.
        directory: Folder of the trial, as the driver sees it.
        start: Number of the trial's start; larger for later ones.
    """
    if not folder:
        yield Workspace(directory=directory)
        return
    from ray import cloudpickle

    home: StudyFolder = cloudpickle.loads(folder)
    with home.workspace(str(directory), start) as workspace:
        yield workspace


@contextmanager
def open_folder(root: Path) -> Iterator[bytes]:
    """Starts the process beside the driver, for the length of the block. Ray must be connected.

    Args:
        root: Folder of the study.

    Yields:
        For `open_workspace`. As bytes: Tune copies and stores what it hands to a trial, and would not know what to do
        with handles.
    """
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(Keeper)
    keeper = actor.options(scheduling_strategy=here).remote(str(root.resolve()))
    mark = root / f".driver-{uuid.uuid4().hex}"
    mark.touch()
    try:
        folder = StudyFolder(root=str(root.resolve()), mark=mark.name, keeper=keeper)
        packed: bytes = cloudpickle.dumps(folder)  # type: ignore[no-untyped-call]
        yield packed
    finally:
        mark.unlink(missing_ok=True)
        ray.kill(keeper)


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Makes a folder that `_remove_unused` leaves alone for the length of the block."""
    lock = folder / ".in-use"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with lock.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not lock.exists():
                    continue  # somebody has removed it in between
                yield
                return
        except FileNotFoundError:
            if folder.exists():
                raise


def _remove_unused(base: Path) -> None:
    """Remove the folders of trials whose processes are gone: a process that is killed cannot do so itself."""
    for lock in base.glob("*/trials/*/.in-use"):
        try:
            with lock.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:
            continue  # in use, or just removed
    for folder in [*base.glob("*/trials"), *base.glob("*")]:
        try:
            folder.rmdir()
        except OSError:
            continue  # not empty
