"""Trials on machines that do not see the study's folder: their files arrive, whole, and late ones do not."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from gcsearch.tuning import workspaces
from gcsearch.tuning.workspaces import WORKSPACES, Keeper, StudyFolder


class Handle:
    """A keeper as a process elsewhere calls it."""

    def __init__(self, keeper):
        for name in ("size", "chunk", "keep"):
            setattr(self, name, SimpleNamespace(remote=getattr(keeper, name)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "studies" / "small"
    (folder / "trials" / "0007" / "checkpoints").mkdir(parents=True)
    return folder


@pytest.fixture
def elsewhere(root: Path, tmp_path: Path, monkeypatch) -> StudyFolder:
    """The study's folder as a machine sees it that does not see it; files travel in pieces of four bytes."""
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(workspaces, "CHUNK_BYTES", 4)
    return StudyFolder(root=str(root), mark=".driver-1", keeper=Handle(Keeper(str(root))))


def scratch_files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "scratch" / WORKSPACES).rglob("*") if path.is_file())


def test_who_sees_the_folder_works_in_it(root: Path) -> None:
    (root / ".driver-1").touch()
    folder = StudyFolder(root=str(root), mark=".driver-1", keeper=None)
    with folder.workspace(str(root / "trials" / "0007"), start=1) as workspace:
        assert workspace.directory == root / "trials" / "0007"
        workspace.publish(workspace.directory / "checkpoints" / "latest.pt")  # nothing to do, and nobody asked


@pytest.mark.parametrize("content", [b"", b"1234", b"123456789"], ids=["empty", "one piece", "three pieces"])
def test_files_come_and_go(elsewhere: StudyFolder, root: Path, tmp_path: Path, content: bytes) -> None:
    latest = root / "trials" / "0007" / "checkpoints" / "latest.pt"
    latest.write_bytes(content)
    with elsewhere.workspace(str(root / "trials" / "0007"), start=1) as workspace:
        assert workspace.directory != root / "trials" / "0007"
        mine = workspace.directory / "checkpoints" / "latest.pt"
        assert mine.read_bytes() == content
        mine.write_bytes(content + b"more")
        workspace.publish(mine)
        assert latest.read_bytes() == content + b"more"
    assert scratch_files(tmp_path) == []
    assert [path.name for path in latest.parent.iterdir()] == ["latest.pt"]


def test_what_an_earlier_start_sends_late_is_not_taken(elsewhere: StudyFolder, root: Path) -> None:
    trial = str(root / "trials" / "0007")
    with elsewhere.workspace(trial, start=3) as dead, elsewhere.workspace(trial, start=8) as alive:
        for workspace, text in ((alive, "new"), (dead, "old, and long enough for pieces")):
            file = workspace.directory / "checkpoints" / "latest.pt"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            workspace.publish(file)
    assert (Path(trial) / "checkpoints" / "latest.pt").read_text() == "new"


def test_a_file_that_is_half_sent_is_not_seen(root: Path) -> None:
    keeper = Keeper(str(root))
    latest = root / "trials" / "0007" / "checkpoints" / "latest.pt"
    latest.write_bytes(b"old")
    assert keeper.keep("trials/0007/checkpoints/latest.pt", 1, 0, b"ne", False) is None
    assert latest.read_bytes() == b"old"
    assert keeper.keep("trials/0007/checkpoints/latest.pt", 1, 2, b"w!", True) is None
    assert latest.read_bytes() == b"new!"


def test_a_full_disk_is_told_as_such(elsewhere: StudyFolder, root: Path, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    with elsewhere.workspace(str(root / "trials" / "0007"), start=1) as workspace:
        file = workspace.directory / "samples.png"
        file.write_bytes(b"123456789")
        monkeypatch.setattr(workspaces.os, "fsync", full)
        with pytest.raises(OSError, match="no space left on the driver's disk"):
            workspace.publish(file)
    assert not list(root.rglob("*.part"))


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "trials/../../secret"])
def test_no_file_outside_of_the_study_is_read_or_written(root: Path, path: str) -> None:
    keeper = Keeper(str(root))
    for call in (lambda: keeper.size(path), lambda: keeper.chunk(path, 0), lambda: keeper.keep(path, 1, 0, b"", True)):
        with pytest.raises(ValueError, match="outside"):
            call()


def test_folders_of_processes_that_are_gone_are_removed(elsewhere: StudyFolder, root: Path, tmp_path: Path) -> None:
    left = tmp_path / "scratch" / WORKSPACES / "driver-0-5" / "trials" / "0003"
    left.mkdir(parents=True)
    (left / ".in-use").touch()
    (left / "latest.pt").write_text("a killed process left this")
    with elsewhere.workspace(str(root / "trials" / "0007"), start=1) as first:
        with elsewhere.workspace(str(root / "trials" / "0008"), start=2):
            assert first.directory.exists()
        assert not left.exists()
        assert first.directory.exists()
