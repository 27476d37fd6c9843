"""Where files of ours lie, and how those of another machine get here."""

from __future__ import annotations

import hashlib
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from gcsearch.errors import DataError
from gcsearch.files import default_cache_dir, default_data_dir, mark, receive, supplied, supply


def test_folders_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "here"))
    monkeypatch.delenv("GCSEARCH_DATA", raising=False)
    assert default_cache_dir() == tmp_path / "here"
    assert default_data_dir() == tmp_path / "here" / "data"
    monkeypatch.setenv("GCSEARCH_DATA", str(tmp_path / "images"))
    assert default_data_dir() == tmp_path / "images"
    monkeypatch.delenv("GCSEARCH_DATA")
    monkeypatch.delenv("GCSEARCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "gcsearch"
    assert default_data_dir() == tmp_path / ".cache" / "gcsearch" / "data"


CONTENT = b"0123456789" * 300_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def pieces():
    return (CONTENT[start : start + 1_000_000] for start in range(0, len(CONTENT), 1_000_000))


def test_a_mark_tells_files_apart_and_is_the_same_anywhere(tmp_path):
    first, again, other = (tmp_path / name for name in "abc")
    first.write_bytes(CONTENT)
    again.write_bytes(CONTENT)
    assert mark(first) == mark(again)
    for changed in (CONTENT[:-1], CONTENT[:-1] + b"x", b"x" + CONTENT[1:], CONTENT + b"x", b""):
        other.write_bytes(changed)
        assert mark(other) != mark(first)
    assert mark(tmp_path / "missing") is None
    assert mark(tmp_path) is None


def test_a_copy_is_made_once_however_many_want_it(tmp_path):
    path, asked = tmp_path / "copies" / "file", []
    path.parent.mkdir()
    (path.parent / ".file.0123.tmp").write_bytes(b"left by a process that was killed")

    def slow_pieces():
        asked.append(1)
        for piece in pieces():
            time.sleep(0.02)
            yield piece

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: receive(path, len(CONTENT), SHA256, slow_pieces), range(4)))
    assert path.read_bytes() == CONTENT
    assert len(asked) == 1
    assert sorted(file.name for file in path.parent.iterdir()) == [".file.lock", "file"]


def test_a_copy_that_cannot_be_made_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "file"
    with pytest.raises(DataError, match=r"file: the copy must have the sha256 000000000000…, got .* run the same"):
        receive(path, len(CONTENT), "0" * 64, pieces)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(DataError, match=r"there must be 0.0 GB free for a copy of file, got 0.0 GB. Make room"):
        receive(path, len(CONTENT), SHA256, pieces)
    monkeypatch.undo()
    (tmp_path / "not_a_folder").touch()
    with pytest.raises(DataError, match=r"must be copied from the machine of the study, but: .*GCSEARCH_CACHE there"):
        receive(tmp_path / "not_a_folder" / "file", len(CONTENT), SHA256, pieces)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".file.lock", "not_a_folder"]


def test_what_is_supplied_replaces_what_was_supplied_before(tmp_path):
    supply({"a": tmp_path / "a"})
    supply({"b": tmp_path / "b"})
    assert (supplied("a"), supplied("b")) == (None, tmp_path / "b")
    supply({})
    assert supplied("b") is None
