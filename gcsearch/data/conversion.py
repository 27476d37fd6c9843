"""Making a file of the image store: streaming, resumable, all or nothing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from gcsearch import __version__
from gcsearch.data.store import Metadata, write_images
from gcsearch.errors import DataError
from gcsearch.files import write_text

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
Progress = Callable[[str, int, int | None], None]
"""Receives what is going on (``converting``, ``downloading FILE``), how much is done, and of how much, if known."""

SYNC_SECONDS: Final = 5.0
"""Time between two points from which an interrupted conversion can go on."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Images that wait to be stored: an archive, a folder, a table, opened and checked.

    Attributes:
        shape: (C, H, W) of every image.
        count: Number of images; None if it takes reading everything to know.
        description: Files and, if known, their checksum; no folders of this machine.
        identity: Changes when the images do.
        verification: Whether the source is the published one, and how that was checked.
        preprocessing: What is done to each image.
        read: Chunks (k, C, H, W) from image `start` on, in an order that never changes; each of a few megabytes at
            most, but for archives that have to be read in larger pieces.
    """

    shape: tuple[int, int, int]
    count: int | None
    description: str
    identity: str
    verification: str
    preprocessing: str
    read: Callable[[int], Iterator[Pixels]]


class Tally:
    """What is known about the pixels so far: their hash and, per channel, how often each level came."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.count = 0
        self.digest = hashlib.sha256()
        self.histogram = np.zeros((shape[0], 256), np.int64)

    def add(self, chunk: Pixels) -> None:
        """Take the next images (k, C, H, W)."""
        self.count += len(chunk)
        self.digest.update(chunk.data)
        for channel, levels in enumerate(self.histogram):
            levels += np.bincount(chunk[:, channel].reshape(-1), minlength=256)


@dataclass(frozen=True, kw_only=True)
class Moments:
    """First and second moments of images, from exact integers: they do not depend on how the images were cut.

    Attributes:
        mean: Mean of each channel, bytes.
        deviation: Standard deviation of each channel, bytes.
        std: Standard deviation of all pixels in [-1, 1].
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    std: float

    @classmethod
    def of(cls, images: Pixels) -> Moments:
        """Moments of images (N, C, H, W)."""
        tally = Tally((images.shape[1], images.shape[2], images.shape[3]))
        tally.add(np.ascontiguousarray(images))
        return cls.of_histogram(tally.histogram)

    @classmethod
    def of_histogram(cls, histogram: NDArray[np.int64]) -> Moments:
        """Moments from how often each level comes, (C, 256)."""
        means, deviations = zip(*(_moments(levels) for levels in histogram), strict=True)
        return cls(mean=means, deviation=deviations, std=_moments(histogram.sum(axis=0))[1] / 127.5)


def _moments(histogram: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation of levels 0..255 from their counts."""
    counts = [int(count) for count in histogram]
    number = sum(counts)
    total = sum(level * count for level, count in enumerate(counts))
    squares = sum(level * level * count for level, count in enumerate(counts))
    return total / number, math.sqrt(number * squares - total * total) / number


def convert(target: Path, name: str, source: Source, progress: Progress = lambda *_: None) -> Metadata:
    """Write the images of a source to a file of the store.

    An interrupted conversion goes on where it was last safe, if the source is still the same; the result does not
    depend on interruptions. One that the source itself has stopped leaves nothing behind. Memory stays at a few chunks.
    Disk: twice the size of the file until the end.

    Args:
        target: The file; it appears when it is complete.
        name: Data set.
        source: The images.
        progress: Told after every chunk.

    Raises:
        DataError: Another process prepares the same file, the disk is full, or the source cannot be read.
    """
    unfinished, notes = _beside(target, ".partial"), _beside(target, ".partial.json")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("a+b") as file:
            _lock(file, target)
            tally = _resume(file, notes, source)
            is_worth_keeping = tally.count > 0
            try:
                _check_space(target, source, tally.count)
                is_worth_keeping = False  # what fails from here on is the source, and a repaired one begins anew
                _append(file, notes, source, tally, progress)
            except DataError:
                if not is_worth_keeping:
                    unfinished.unlink()
                    notes.unlink(missing_ok=True)
                raise
            metadata = _describe(name, source, tally)
            assembled = _beside(target, ".partial.arrow")
            write_images(assembled, unfinished, metadata)
            with assembled.open("r+b") as done:
                os.fsync(done.fileno())
            assembled.replace(target)
            unfinished.unlink()
            notes.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"data '{name}': the conversion to {target} stopped: {error}.") from None
    return metadata


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f"{target.name}{suffix}")


def _lock(file: BinaryIO, target: Path) -> None:
    """Only one process prepares a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.fstat(file.fileno()).st_nlink > 0  # else the other one finished between our opening and locking
    except BlockingIOError:
        is_ours = False
    if not is_ours:
        raise DataError(f"{target}: must be prepared by one process at a time; another is at it. Wait for it.")


def _resume(file: BinaryIO, notes: Path, source: Source) -> Tally:
    """Take over what an interrupted conversion of the same source left; drop anything else."""
    tally, size = Tally(source.shape), math.prod(source.shape)
    try:
        noted = json.loads(notes.read_text(encoding="utf-8"))
        count, digest, key = int(noted["count"]), noted["sha256"], noted["key"]
    except (OSError, ValueError, KeyError, TypeError):
        count, digest, key = 0, "", ""
    if count and key == _key(source):
        file.seek(0)
        step = max(1, (1 << 22) // size)
        for start in range(0, count, step):
            block = np.frombuffer(file.read(size * min(step, count - start)), np.uint8)
            if block.size % size or not block.size:
                break
            tally.add(block.reshape(-1, *source.shape))
        if tally.count == count and tally.digest.hexdigest() == digest:
            file.truncate(count * size)
            return tally
        logger.warning("What an interrupted conversion left in %s is damaged; starting over.", file.name)
    file.truncate(0)
    return Tally(source.shape)


def _key(source: Source) -> str:
    """Images that may be appended to one another have the same key."""
    parts = (source.shape, source.count, source.identity, source.preprocessing)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _check_space(target: Path, source: Source, done: int) -> None:
    if source.count is None:
        return
    needed = (2 * source.count - done) * math.prod(source.shape)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise DataError(
            f"{target.parent}: there must be {needed / 1e9:.1f} GB free for the conversion, got {free / 1e9:.1f} GB. "
            "Name another folder with --store or GCSEARCH_DATA."
        )


def _append(file: BinaryIO, notes: Path, source: Source, tally: Tally, progress: Progress) -> None:
    """Write the images that are still missing."""
    noted = time.monotonic()
    progress("converting", tally.count, source.count)
    try:
        for chunk in source.read(tally.count):
            data = np.ascontiguousarray(chunk)
            file.write(data.data)
            tally.add(data)
            progress("converting", tally.count, source.count)
            if time.monotonic() - noted >= SYNC_SECONDS:
                _note(file, notes, source, tally)
                noted = time.monotonic()
    finally:  # after an error or Ctrl-C, too
        _note(file, notes, source, tally)
    if tally.count == 0 or (source.count is not None and tally.count != source.count):
        wanted = "at least one image" if source.count is None else f"{source.count} images"
        raise DataError(f"{source.description}: must hold {wanted}, got {tally.count}.")


def _note(file: BinaryIO, notes: Path, source: Source, tally: Tally) -> None:
    """Note how far the conversion is, after the pixels are on the disk: what is noted can be relied upon."""
    file.flush()
    os.fsync(file.fileno())
    state = {"key": _key(source), "count": tally.count, "sha256": tally.digest.hexdigest()}
    write_text(notes, json.dumps(state))


def _describe(name: str, source: Source, tally: Tally) -> Metadata:
    moments = Moments.of_histogram(tally.histogram)
    return Metadata(
        name=name,
        shape=source.shape,
        count=tally.count,
        sha256=tally.digest.hexdigest(),
        source=source.description,
        source_id=source.identity,
        verification=source.verification,
        preprocessing=source.preprocessing,
        channel_mean=moments.mean,
        channel_std=moments.deviation,
        std=moments.std,
        version=__version__,
    )
