"""Reading what may unpack to any size."""

from __future__ import annotations

from typing import Final, Protocol

from gcsearch.errors import DataError

MAX_BYTES: Final = 1 << 30
"""Most that a member of an archive, or a packed file, may unpack to. The largest published one has 0.4 GB."""

BLOCK: Final = 1 << 20


class Readable(Protocol):
    """An open file, packed or not."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


def read_all(file: Readable, where: str) -> bytes:
    """Rest of a file that may be packed, without ever holding much more than `MAX_BYTES`.

    Raises:
        DataError: There is more.
    """
    blocks, size = [], 0
    while block := file.read(BLOCK):
        size += len(block)
        check_size(size, where)
        blocks.append(block)
    return b"".join(blocks)


def check_size(size: int, where: str) -> None:
    """Nothing, if that many bytes may be unpacked.

    Raises:
        DataError: They are too many.
    """
    if size > MAX_BYTES:
        raise DataError(
            f"{where}: must unpack to at most {MAX_BYTES / 2**20:g} MiB, but is larger. This is not the published "
            "file; do not use it."
        )
