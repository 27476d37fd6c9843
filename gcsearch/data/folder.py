"""Your own images: a folder at any depth, or a zip archive."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gcsearch.data.base import datasets
from gcsearch.data.conversion import Source
from gcsearch.data.decoding import Decoder, Filter
from gcsearch.data.image_files import open_collection
from gcsearch.data.image_set import OwnImages, decoded


@datasets.register("folder")
@dataclass(frozen=True, kw_only=True)
class Folder(OwnImages):
    """Images of a folder, in the order of their names.

    Attributes:
        path: Folder or zip archive, absolute or relative to the working folder.
        resolution: Height and width: the shorter side is resized to it, then the centre is cut out.
        channels: 3 for RGB, 1 for grey.
        filter: How to resize.
    """

    path: str = "images"
    resolution: int = 32
    channels: int = 3
    filter: Filter = "lanczos"
    wanted = "a folder of images, or a zip archive"

    def __post_init__(self) -> None:
        check_own(self.path, self.resolution, self.channels)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.channels, self.resolution, self.resolution)

    @property
    def file_stem(self) -> str:
        return own_stem("folder", self.location, self.resolution, self.channels, self.filter)

    def open_source(self, path: Path, *, trust: bool) -> Source:
        del trust
        decoder = Decoder(resolution=self.resolution, channels=self.channels, filter=self.filter, upright=True)
        return decoded(open_collection(path), decoder, "your own images")


def check_own(path: str, resolution: int, channels: int) -> None:
    """Reject settings that mean nothing."""
    if not path.strip():
        raise ValueError(f"path must not be empty, got {path!r}")
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1, got {resolution}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")


def own_stem(kind: str, location: Path, resolution: int, *settings: object) -> str:
    """Name in the store: readable at its beginning, unique by the hash of place and settings at its end."""
    digest = hashlib.sha256(repr((str(location), resolution, *settings)).encode()).hexdigest()
    readable = "".join(letter if letter.isalnum() else "_" for letter in location.stem)[:40]
    return f"{kind}-{readable}-{resolution}-{digest[:10]}"
