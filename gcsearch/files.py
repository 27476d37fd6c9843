"""Where files of ours lie, and writing them so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def default_cache_dir() -> Path:
    """`$GCSEARCH_CACHE`, or `~/.cache/gcsearch`: what can be computed again."""
    return Path(os.environ.get("GCSEARCH_CACHE") or Path.home() / ".cache" / "gcsearch")


def default_data_dir() -> Path:
    """`$GCSEARCH_DATA`, or `data` in the cache: the image store."""
    return Path(os.environ.get("GCSEARCH_DATA") or default_cache_dir() / "data")


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
