"""The image store: one immutable, memory-mapped Arrow file per data set and resolution.

The file is Arrow IPC with a single record batch and a single column of fixed-size binaries, one image a row, bytes in
C, H, W order. What it holds is described by one JSON object in the schema's metadata. Opening reads the metadata only;
pixels come from the page cache, which all processes of a machine share. pyarrow is imported when a file is touched, so
embedded data sets train without it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import mmap
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from gcsearch.errors import DataError

FORMAT: Final = 1
"""Number in every file: raise it when the meaning of the content changes."""

METADATA_KEY: Final = b"gcsearch"
COLUMN: Final = "image"
SUFFIX: Final = ".arrow"

NO_RESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""Lets a private mapping be larger than memory; Python 3.11 does not name it."""

HASH_BLOCK: Final = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a file of the store says about itself. No times and no host: equal sources give equal files.

    Attributes:
        name: Data set, e.g. ``cifar10``.
        shape: (C, H, W).
        count: Number of images.
        sha256: Hash of all pixels in file order; equals `Examples.sha256`.
        source: What the images were made from: files and, if known, their checksum.
        source_id: Hash that changes when the source does.
        verification: Whether the source is the published one, and how that was checked.
        preprocessing: What was done to each image.
        channel_mean: Mean of each channel, bytes 0..255.
        channel_std: Standard deviation of each channel, bytes 0..255.
        std: Standard deviation of all pixels in [-1, 1]: the `process.sigma_data` of this data.
        version: Version of gcsearch that wrote the file.
        format: `FORMAT` of that version.
    """

    name: str
    shape: tuple[int, int, int]
    count: int
    sha256: str
    source: str
    source_id: str
    verification: str
    preprocessing: str
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    std: float
    version: str
    format: int = FORMAT

    def to_json(self) -> str:
        """Canonical text of the schema's metadata."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: bytes) -> Metadata:
        """Inverse of `to_json`.

        Raises:
            ValueError: Not written by this format.
        """
        values: dict[str, Any] = json.loads(text)
        if values.get("format") != FORMAT:
            raise ValueError(f"its format is {values.get('format')}, this version of gcsearch reads {FORMAT}")
        if set(values) != {field.name for field in dataclasses.fields(cls)}:
            raise ValueError("its metadata are incomplete")
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**(values | lists))


@dataclass(frozen=True, kw_only=True)
class StoredImages:
    """A file of the store.

    Attributes:
        path: The file.
        metadata: What it says about itself.
        offset: Position of the first pixel in the file, in bytes.
    """

    path: Path
    metadata: Metadata
    offset: int

    @cached_property
    def images(self) -> Tensor:
        """All images (N, C, H, W), mapped: a page is read when it is first touched.

        The mapping is private: writing to the tensor changes this process's copy of a page and never the file.
        """
        count = self.metadata.count * math.prod(self.metadata.shape)
        with self.path.open("rb") as file:
            mapped = mmap.mmap(
                file.fileno(), 0, flags=mmap.MAP_PRIVATE | NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
            )
        flat = torch.frombuffer(mapped, dtype=torch.uint8, offset=self.offset, count=count)
        return flat.view(self.metadata.count, *self.metadata.shape)

    def verify(self) -> None:
        """Read all pixels and compare their hash with the recorded one.

        Raises:
            DataError: They differ.
        """
        digest = hashlib.sha256()
        pixels = self.images.flatten().numpy().data
        for start in range(0, len(pixels), HASH_BLOCK):
            digest.update(pixels[start : start + HASH_BLOCK])
        if digest.hexdigest() != self.metadata.sha256:
            raise DataError(
                f"{self.path}: the pixels must have the recorded sha256 {self.metadata.sha256[:12]}…, got "
                f"{digest.hexdigest()[:12]}…. The file is damaged; delete it and prepare the data again."
            )


def open_images(path: Path) -> StoredImages:
    """Open a file of the store; milliseconds, whatever its size.

    Raises:
        DataError: It is missing, damaged, or not of this format.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            text = (reader.schema.metadata or {}).get(METADATA_KEY)
            if text is None or reader.num_record_batches != 1:
                raise ValueError("gcsearch did not write it")
            metadata = Metadata.from_json(text)
            column = reader.get_batch(0).column(COLUMN)
            file.seek(0)
            offset = column.buffers()[-1].address - file.read_buffer().address
            if len(column) != metadata.count or column.type != pa.binary(math.prod(metadata.shape)):
                raise ValueError("its metadata do not describe its content")
    except FileNotFoundError:
        raise DataError(f"{path}: there must be a file of the image store, found none.") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise DataError(
            f"{path}: must be a file of the image store, but {reason}. Delete it and prepare the data again."
        ) from None
    return StoredImages(path=path, metadata=metadata, offset=offset)


def write_images(path: Path, pixels: Path, metadata: Metadata) -> None:
    """Write a file of the store from a file of raw pixels, without loading it.

    Args:
        path: File to write; the caller makes this atomic.
        pixels: All pixels in N, C, H, W order and nothing else.
        metadata: What to record.
    """
    import pyarrow as pa

    with pa.memory_map(str(pixels)) as raw:
        column = pa.Array.from_buffers(
            pa.binary(math.prod(metadata.shape)), metadata.count, [None, raw.read_buffer()], null_count=0
        )
        schema = pa.schema([pa.field(COLUMN, column.type, nullable=False)], {METADATA_KEY: metadata.to_json()})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch([column], schema=schema))
