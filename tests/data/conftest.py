"""Small sources in the formats of the published ones, and a store of their own for every test."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gcsearch.data import Dataset, datasets
from gcsearch.data.conversion import Source
from gcsearch.data.fashion_mnist import NAME
from gcsearch.data.folder import Folder
from gcsearch.data.image_set import ImageSet, prepare
from gcsearch.data.table import Table


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path) -> Path:
    """The image store of the test."""
    folder = tmp_path / "store"
    monkeypatch.setenv("GCSEARCH_DATA", str(folder))
    return folder


def pixels(count: int, channels: int, height: int, width: int | None = None, seed: int = 0) -> np.ndarray:
    """Random images (N, C, H, W)."""
    shape = (count, channels, height, width or height)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(image: np.ndarray, kind: str = "png", **options: object) -> bytes:
    """An encoded image from (C, H, W)."""
    stream = io.BytesIO()
    planes = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(planes).save(stream, kind, **options)
    return stream.getvalue()


def write_folder(folder: Path, images: np.ndarray) -> Path:
    """PNG files at two depths, in the order of their names."""
    for index, image in enumerate(images):
        path = folder / ("a" if index < len(images) // 2 else "b/c") / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return folder


def write_idx(path: Path, images: np.ndarray) -> Path:
    """IDX file of images (N, 1, H, W); gzipped if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = struct.pack(">4i", 2051, len(images), *images.shape[2:]) + images.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def cifar_batches(images: np.ndarray, *, is_binary: bool) -> dict[str, bytes]:
    """Five training batches and a test batch of other images."""
    parts = dict(zip([f"data_batch_{number}" for number in range(1, 6)], np.array_split(images, 5), strict=True))
    parts["test_batch"] = 255 - images[:3]
    if is_binary:
        rows = {name: part.reshape(len(part), -1) for name, part in parts.items()}
        return {
            f"cifar-10-batches-bin/{name}.bin": np.insert(part, 0, 7, axis=1).tobytes() for name, part in rows.items()
        }
    return {
        f"cifar-10-batches-py/{name}": pickle.dumps(
            {b"data": part.reshape(len(part), -1), b"labels": [7] * len(part), b"batch_label": b"some text"}, 2
        )
        for name, part in parts.items()
    }


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_parquet(path: Path, images: np.ndarray) -> Path:
    """What the Hugging Face hub holds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    column = [{"bytes": png(image), "path": f"{index}.png"} for index, image in enumerate(images)]
    pq.write_table(pa.table({"image": column, "label": [0] * len(images)}), path, row_group_size=7)
    return path


SOURCES: dict[str, Callable[[Path], tuple[ImageSet, Path]]] = {
    "fashion_mnist": lambda folder: (
        datasets["fashion_mnist"](),
        write_idx(folder / f"{NAME}.gz", pixels(40, 1, 28)),
    ),
    "cifar10": lambda folder: (
        datasets["cifar10"](),
        write_tar(folder / "cifar.tar.gz", cifar_batches(pixels(23, 3, 32), is_binary=True)),
    ),
    "imagenet32": lambda folder: (datasets["imagenet32"](), write_folder(folder / "photographs", pixels(9, 3, 40, 50))),
    "celeba64": lambda folder: (datasets["celeba64"](), write_folder(folder / "faces", pixels(5, 3, 218, 178))),
    "lsun_church64": lambda folder: (datasets["lsun_church64"](), write_folder(folder / "lsun", pixels(6, 3, 70, 90))),
    "folder": lambda folder: (
        Folder(path=str(folder / "own"), resolution=16),
        write_folder(folder / "own", pixels(11, 3, 20, 30)),
    ),
    "table": lambda folder: (
        Table(path=str(folder / "own.parquet"), resolution=16),
        write_parquet(folder / "own.parquet", pixels(11, 3, 20, 30)),
    ),
}
"""Per data set that needs files: the component and a small source in its format."""


def source_of(images: np.ndarray, chunk: int = 7, starts: list[int] | None = None) -> Source:
    """Source that holds these images, and notes where reading began."""

    def read(start: int) -> Iterator[np.ndarray]:
        if starts is not None:
            starts.append(start)
        return (images[row : row + chunk] for row in range(start, len(images), chunk))

    return Source(
        shape=images.shape[1:],
        count=len(images),
        description="numbers",
        identity="this",
        verification="none",
        preprocessing="none",
        read=read,
    )


@pytest.fixture
def make() -> SimpleNamespace:
    """The functions above that write small sources."""
    functions = (pixels, png, write_folder, write_idx, cifar_batches, write_tar, write_parquet, source_of)
    return SimpleNamespace(**{function.__name__: function for function in functions}, sources=SOURCES)


@pytest.fixture
def ready(tmp_path) -> Callable[[str], Dataset]:
    """Gives a data set by name, prepared from a small source if it needs files."""

    def get(name: str) -> Dataset:
        if not issubclass(datasets[name], ImageSet):
            return datasets[name]()
        dataset, source = SOURCES[name](tmp_path / "sources")
        prepare(dataset, source, trust=True)
        return dataset

    return get
