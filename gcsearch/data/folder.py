"""Your own images: a folder at any depth, or a zip archive."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gcsearch.data.base import datasets
from gcsearch.data.conversion import Source
from gcsearch.data.image_files import open_collection
from gcsearch.data.image_set import OwnImages, decoded


@datasets.register("folder")
@dataclass(frozen=True, kw_only=True)
class Folder(OwnImages):
    """Images of a folder, in the order of their names.

    Attributes:
        path: Folder or zip archive, absolute or relative to the working folder.
    """

    path: str = "images"
    wanted = "a folder of images, or a zip archive"

    @property
    def file_stem(self) -> str:
        return own_stem("folder", self.location, self.resolution, self.channels, self.filter)

    def open_source(self, path: Path, *, trust: bool) -> Source:
        del trust
        return decoded(open_collection(path), self.decoder, "your own images")


def own_stem(kind: str, location: Path, resolution: int, *settings: object) -> str:
    """Name in the store: readable at its beginning, unique by the hash of place and settings at its end."""
    digest = hashlib.sha256(repr((str(location), resolution, *settings)).encode()).hexdigest()
    readable = "".join(letter if letter.isalnum() else "_" for letter in location.stem)[:40]
    return f"{kind}-{readable}-{resolution}-{digest[:10]}"
