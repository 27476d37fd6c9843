"""Image data sets that are converted once into the image store and read from there.

To add one: a file beside this one with a frozen dataclass derived from `ImageSet` and `@datasets.register("name")`.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gcsearch.data.base import Dataset, Examples
from gcsearch.data.conversion import Progress, Source, convert
from gcsearch.data.decoding import Decoder, Filter
from gcsearch.data.image_files import Collection
from gcsearch.data.store import SUFFIX, StoredImages, open_images
from gcsearch.errors import DataError
from gcsearch.files import default_data_dir, supplied


class ImageSet(Dataset):
    """A data set whose images lie in the image store.

    Attributes:
        resolution: Height and width; a field of every subclass.
        wanted: What `--from` takes, e.g. ``cifar-10-binary.tar.gz``, as the end of "give --from".
        licence: Under which terms the images are published.
        homepage: Where they come from; empty for a user's own.
        num_published: Number of published training images; None for a user's own.
    """

    resolution: int
    default_extractor = "inception"
    wanted: ClassVar[str]
    licence: ClassVar[str]
    homepage: ClassVar[str] = ""
    num_published: ClassVar[int | None] = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (3, self.resolution, self.resolution)

    @property
    @abstractmethod
    def file_stem(self) -> str:
        """Name of the file in the store; differs whenever the images may."""

    @abstractmethod
    def open_source(self, path: Path, *, trust: bool) -> Source:
        """The images at `path`, ready to be converted.

        Args:
            path: What the user has.
            trust: Take a source that is not, or not known to be, the published one.

        Raises:
            DataError: Nothing there, something else, or damaged.
        """

    def find_source(self, directory: Path, progress: Progress) -> Path:
        """Where the images are if the user does not say: an installed package, or a download into `directory`.

        Raises:
            DataError: They cannot be had without the user.
        """
        del directory, progress
        raise DataError(
            f"data '{self.name}': the images cannot be downloaded by a program. {self.homepage} has them. "
            f"Run {self.prepare_command('PATH')}, where PATH is {self.wanted}."
        )

    def stored_at(self, store: Path | None = None) -> Path:
        """File of these images in the store."""
        return (store or default_data_dir()) / f"{self.file_stem}{SUFFIX}"

    def files(self) -> dict[str, Path]:
        path = self.stored_at()
        return {path.name: path}

    def open(self, store: Path | None = None) -> StoredImages:
        """The stored images.

        Raises:
            DataError: They have to be prepared first, or the file is damaged.
        """
        path = self.stored_at(store)
        if store is None:
            path = supplied(path.name) or path
        if not path.exists():
            raise DataError(
                f"data '{self.name}': must be prepared first, there is no {path}. Run {self.prepare_command('PATH')}, "
                f"where PATH is {self.wanted}."
            )
        stored = open_images(path)
        if stored.metadata.shape != self.event_shape:
            raise DataError(
                f"{path}: images must have the shape {list(self.event_shape)}, got {list(stored.metadata.shape)}. "
                "Delete the file and prepare the data again."
            )
        return stored

    def load(self) -> Examples:
        stored = self.open()
        return Examples(stored.images, stored.metadata.sha256)

    def prepare_command(self, source: str) -> str:
        """The command that prepares exactly these images."""
        words = ["gcsearch", "data", "prepare", self.name, "--from", source]
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            if field.name == "path" or value == field.default:
                continue
            words += ["--resolution", str(value)] if field.name == "resolution" else ["--set", f"{field.name}={value}"]
        return shlex.join(words)

    def published(self, count: int, *, trust: bool) -> str:
        """Words on whether `count` images are the published number.

        Raises:
            DataError: They are not, and the source is not to be trusted.
        """
        if count == self.num_published:
            return "number of images as published; no checksum is published"
        if not trust:
            raise DataError(
                f"data '{self.name}': there must be {self.num_published:,} images, got {count:,}. "
                "Complete them; or take them as they are with --trust."
            )
        return f"not verified: {count:,} images instead of {self.num_published:,}"


@dataclass(frozen=True, kw_only=True)
class OwnImages(ImageSet):
    """Images of the user's, named by a path in the experiment.

    Attributes:
        path: Where they are, absolute or relative to the working folder.
        resolution: Height and width: the shorter side is resized to it, then the centre is cut out.
        channels: 3 for RGB, 1 for grey.
        filter: How to resize.
    """

    path: str
    resolution: int = 32
    channels: int = 3
    filter: Filter = "lanczos"
    licence = "yours"

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError(f"path must not be empty, got {self.path!r}")
        if self.resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {self.resolution}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}")

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.channels, self.resolution, self.resolution)

    @property
    def decoder(self) -> Decoder:
        """What makes an array of a file's bytes."""
        return Decoder(resolution=self.resolution, channels=self.channels, filter=self.filter, upright=True)

    @property
    def location(self) -> Path:
        """The path without ``~`` and ``..``."""
        return Path(os.path.abspath(Path(self.path).expanduser()))  # noqa: PTH100 - keeps links, which may differ by node

    def find_source(self, directory: Path, progress: Progress) -> Path:
        del directory, progress
        return self.location

    def check_unchanged(self, stored: StoredImages, source: Path | None = None) -> None:
        """Nothing, if the images are still those that were stored, or are gone.

        Raises:
            DataError: They have changed since.
        """
        path = source or self.location
        is_there = path.exists() or any(letter in str(path) for letter in "*?[")
        if is_there and self.open_source(path, trust=True).identity != stored.metadata.source_id:
            raise DataError(
                f"data '{self.name}': {path} must be as it was when it was prepared, but has changed. "
                "Run the same command with --again to take the images as they are now; trainings that go on with the "
                "old ones are not comparable."
            )

    def open(self, store: Path | None = None) -> StoredImages:
        try:
            return super().open(store)
        except DataError:
            if self.stored_at(store).exists():
                raise
            raise DataError(
                f"data '{self.name}': must be prepared first. Run {self.prepare_command(str(self.location))}."
            ) from None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `prepare` did.

    Attributes:
        stored: The images.
        is_new: Whether they were converted now.
    """

    stored: StoredImages
    is_new: bool


def prepare(
    dataset: ImageSet,
    source: Path | None = None,
    *,
    store: Path | None = None,
    again: bool = False,
    trust: bool = False,
    progress: Progress = lambda *_: None,
) -> Prepared:
    """Convert a data set into the image store, unless it is there.

    Args:
        dataset: Which images.
        source: Where they are; None looks in the usual places, or downloads.
        store: Folder of the store; None for `gcsearch.files.default_data_dir`.
        again: Convert even if they are there.
        trust: Take a source that is not the published one.
        progress: Told what is going on.

    Raises:
        DataError: See `ImageSet.find_source`, `ImageSet.open_source` and `gcsearch.data.conversion.convert`.
    """
    target = dataset.stored_at(store)
    if target.exists() and not again:
        stored = dataset.open(store)
        if isinstance(dataset, OwnImages):
            dataset.check_unchanged(stored, source)
        return Prepared(stored=stored, is_new=False)
    path = dataset.find_source(target.parent / "downloads", progress) if source is None else source.expanduser()
    convert(target, dataset.name, dataset.open_source(path, trust=trust), progress)
    return Prepared(stored=dataset.open(store), is_new=True)


def decoded(collection: Collection, decoder: Decoder, verification: str) -> Source:
    """Source of encoded images."""
    side = decoder.resolution
    return Source(
        shape=(decoder.channels, side, side),
        count=len(collection.names),
        description=collection.description,
        identity=collection.identity,
        verification=verification,
        preprocessing=str(decoder),
        read=lambda start: decoder.chunks(collection.names[start:], collection.read),
    )
