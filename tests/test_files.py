"""Where files of ours lie."""

from __future__ import annotations

from gcsearch.files import default_cache_dir, default_data_dir


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
