"""Folders of studies as the commands meet them: on this machine, or on a filesystem elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from gcsearch.cli.console import progress
from gcsearch.errors import StudyError
from gcsearch.storage import Mirror, RemoteStudies, is_uri


def local_folder(studies: str) -> Path:
    """The folder on this machine, with nothing fetched."""
    return RemoteStudies(studies).local if is_uri(studies) else Path(studies)


def fetched(studies: str, study: str | None = None, *, checkpoints: bool = False, may_be_new: bool = False) -> Path:
    """A folder of studies to read from.

    Args:
        studies: The folder, or its URI: then its studies are fetched first.
        study: Only this one; default: all.
        checkpoints: Whether to fetch the checkpoints of ended trials too.
        may_be_new: Whether the study need not be there.

    Raises:
        StudyError: The study is not there.
    """
    if not is_uri(studies):
        return Path(studies)
    remote = RemoteStudies(studies)
    with progress.status(f"Fetching from {studies}…") if progress.is_terminal else nullcontext():
        names = remote.names()
        if study is not None and study not in names and not may_be_new:
            known = ", ".join(names) or "none"
            raise StudyError(f"study '{study}': there is no such study in {studies}. Known: {known}.")
        for name in names:
            if study in (None, name):
                remote.pull(name, checkpoints=checkpoints)
    return remote.local


@contextmanager
def mirrored(studies: str, study: str) -> Iterator[tuple[Path, list[Mirror]]]:
    """A folder of studies to run a study in.

    Args:
        studies: The folder, or its URI: then the study is sent there while the block runs.
        study: Name of the study.

    Yields:
        The folder on this machine, and whom to tell of the study's events.
    """
    if not is_uri(studies):
        yield Path(studies), []
        return
    mirror = Mirror(RemoteStudies(studies), study)
    with mirror.running():
        yield mirror.remote.local, [mirror]
