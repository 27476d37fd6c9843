"""Files of the driver's machine, on their way to machines of the cluster that lack them.

The driver puts what a recipe reads (the image store's file, weights that do not come with the package, a frozen
predictor) into Ray's object store, in pieces, once per study. A process of a trial fetches it only if its machine has
the file in none of its usual places, and then one process per machine does.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gcsearch.config import Experiment
from gcsearch.files import default_cache_dir, mark, receive

logger = logging.getLogger(__name__)

PIECE: Final = 64 << 20
"""Bytes in one object. Memory that a copy takes at a time; all pieces of a file are in the driver's object store."""


@dataclass(frozen=True, kw_only=True)
class Crate:
    """A file that travels.

    Attributes:
        path: Where it is on the driver's machine.
        mark: What tells it apart from others of its name; see `gcsearch.files.mark`.
        size: Bytes.
        sha256: Hash of its content.
        pieces: References to its content.
    """

    path: str
    mark: str
    size: int
    sha256: str
    pieces: tuple[Any, ...]


class Depot:
    """The driver's half: puts every file away once.

    Args:
        put: Takes bytes into Ray's object store and gives a reference: `ray.put`.
    """

    def __init__(self, put: Callable[[Any], Any]) -> None:
        self.put = put
        self._crates: dict[str, Crate] = {}

    def manifest(self, experiment: Experiment) -> bytes:
        """What a trial's processes need to get at the files of its recipe, for `unpack`. Empty if it reads none.

        Files that are not on this machine are left out: the others may have them, and say so themselves if not.
        """
        from ray import cloudpickle

        crates = {}
        for name, path in sorted(experiment.files().items()):
            found = mark(path)
            if found is not None:
                if found not in self._crates:
                    self._crates[found] = self._pack(path.absolute(), found)
                crates[name] = self._crates[found]
        # As bytes: Tune copies and stores what it hands to a trial, and would not know what to do with references.
        packed: bytes = cloudpickle.dumps(crates)  # type: ignore[no-untyped-call]
        return packed if crates else b""

    def _pack(self, path: Path, found: str) -> Crate:
        digest, pieces = hashlib.sha256(), []
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for start in range(0, len(content), PIECE):
                piece = np.frombuffer(content, np.uint8, min(PIECE, len(content) - start), start)
                digest.update(piece.data)
                pieces.append(self.put(piece))
                del piece  # or the mapping could not be closed
            size = len(content)
        logger.info("%s (%.1f MB) can be fetched by other machines", path, size / 1e6)
        return Crate(path=str(path), mark=found, size=size, sha256=digest.hexdigest(), pieces=tuple(pieces))


def unpack(manifest: bytes, experiment: Experiment, get: Callable[[Any], Any]) -> dict[str, Path]:
    """Where this machine has the files of a recipe, for `gcsearch.files.supply`; fetches those that it has nowhere.

    Args:
        manifest: From `Depot.manifest`.
        experiment: The recipe.
        get: From a reference to bytes: `ray.get`.

    Raises:
        DataError: A file cannot be written here.
    """
    if not manifest:
        return {}
    from ray import cloudpickle

    crates: dict[str, Crate] = cloudpickle.loads(manifest)
    own = experiment.files()
    return {name: _local(crate, own.get(name), get) for name, crate in crates.items()}


def _local(crate: Crate, own: Path | None, get: Callable[[Any], Any]) -> Path:
    """The file at the driver's place, at this machine's own, or as a copy."""
    for path in (Path(crate.path), own):
        if path is not None and mark(path) == crate.mark:
            return path

    def pieces() -> Iterator[Any]:
        for reference in crate.pieces:
            yield get(reference)

    copy = default_cache_dir() / "copies" / crate.mark[:16] / Path(crate.path).name
    receive(copy, crate.size, crate.sha256, pieces)
    return copy
