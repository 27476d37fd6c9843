"""Damaged and hostile LMDBs: a clear error, and nothing left behind."""

from __future__ import annotations

import importlib.util

import pytest

from gcsearch.data.image_set import prepare
from gcsearch.data.lsun_church64 import LSUNChurch64
from gcsearch.errors import DataError

from .hostile import (
    PNG_WORDS,
    half,
    huge_png,
    tree,
    written,
)


@pytest.mark.skipif(importlib.util.find_spec("lmdb") is None, reason="needs the optional library lmdb")
class TestLMDB:
    @pytest.fixture
    def database(self, tmp_path, make):
        import lmdb

        def get(values):
            path = tmp_path / "church_outdoor_train_lmdb"
            with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as writer:
                for number, value in enumerate(values):
                    writer.put(f"{number:04d}".encode(), value)
            (path / "lock.mdb").unlink()
            return path

        return get

    @pytest.mark.parametrize("case", ["empty", "truncated", "of another kind", "with a huge image", "with no image"])
    def test_hostile_database_is_refused_and_leaves_nothing_behind(self, case, database, make, tmp_path, store):
        pictures = [make.png(image) for image in make.pixels(9, 3, 70)]
        last = {"with a huge image": [huge_png(50_000, 50_000)], "with no image": [b"x"]}
        path = database([] if case == "empty" else pictures + last.get(case, []))
        if case == "truncated":
            half(path / "data.mdb")
        elif case == "of another kind":
            written(path / "data.mdb", b"x" * 9999)
        words = {
            "empty": "must hold images, found none",
            "truncated": r"must be a complete LMDB, but data\.mdb ends too early",
            "of another kind": "must be an LMDB of images",
            "with a huge image": PNG_WORDS,
            "with no image": "must be an image that Pillow can read",
        }
        before = tree(tmp_path)
        with pytest.raises(DataError, match=words[case]):
            prepare(LSUNChurch64(), path, trust=True)
        assert {file: size for file, size in tree(tmp_path).items() if file != store} == before
