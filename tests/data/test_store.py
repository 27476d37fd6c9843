"""Files of the image store: what they hold, how they are opened, what happens to damaged ones."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import time
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch

from gcsearch.data import Examples
from gcsearch.data.batches import Batches
from gcsearch.data.conversion import convert
from gcsearch.data.store import Metadata, open_images
from gcsearch.errors import DataError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), dtype=np.uint8)


@pytest.fixture
def path(images, store, make):
    convert(store / "numbers.arrow", "numbers", make.source_of(images))
    return store / "numbers.arrow"


def test_what_was_written_is_read(path, images):
    stored = open_images(path)
    torch.testing.assert_close(stored.images, torch.from_numpy(images), rtol=0, atol=0)
    assert stored.metadata.shape == (3, 4, 5)
    assert stored.metadata.sha256 == hashlib.sha256(images.tobytes()).hexdigest()
    assert stored.metadata.sha256 == Examples(stored.images).sha256
    stored.verify()


def test_metadata_survive_their_text_form(path):
    metadata = open_images(path).metadata
    assert Metadata.from_json(metadata.to_json().encode()) == metadata
    assert hash(metadata) == hash(Metadata.from_json(metadata.to_json().encode()))


def test_any_arrow_reader_can_read_the_file(path, images):
    with pa.ipc.open_file(path) as reader:
        column = reader.read_all().column("image")
    assert [value.as_py() for value in column] == [image.tobytes() for image in images]


def test_opening_reads_no_pixels_and_warns_of_nothing(path):
    open_images(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started = time.perf_counter()
        assert len(open_images(path).images) == 50
        assert time.perf_counter() - started < 0.05


def test_mapped_pixels_take_no_memory_and_writing_to_them_leaves_the_file_alone(path):
    before, allocated = path.read_bytes(), pa.total_allocated_bytes()
    mapped = open_images(path).images
    assert pa.total_allocated_bytes() == allocated
    mapped.fill_(0)
    assert path.read_bytes() == before
    assert open_images(path).images.any()


def test_mapping_may_be_larger_than_memory(tmp_path, path):
    """A sparse file of a tebibyte: nobody has that much memory, so a copy or a reservation would fail."""
    stored = open_images(path)
    size = 3 * 4 * 5
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(stored.offset + size * (1 << 34))
    metadata = dataclasses.replace(stored.metadata, count=1 << 34)
    values = dataclasses.replace(stored, path=large, metadata=metadata).images
    assert not Examples(values, "known").select(torch.tensor([0, (1 << 34) - 1])).any()


def test_examples_of_the_store_are_not_hashed_again(path):
    stored = open_images(path)
    assert Examples(stored.images, "recorded").sha256 == "recorded"
    assert Batches(Examples(stored.images, "recorded"), 4, seed=0).examples.sha256 == "recorded"


def test_batches_of_the_store_equal_those_in_memory_and_share_its_memory(path, images):
    stored = open_images(path).images
    mapped, loaded = Batches(Examples(stored), 8, seed=3), Batches(Examples(torch.from_numpy(images)), 8, seed=3)
    assert mapped.examples.values.data_ptr() == stored.data_ptr()
    for step in (0, 5, 6, 20):
        torch.testing.assert_close(mapped[step], loaded[step], rtol=0, atol=0)


@pytest.mark.slow
def test_a_batch_touches_the_pages_of_its_images_only(tmp_path):
    """128 MiB of images, one batch: the process grows by far less."""
    code = f"""
import resource, numpy as np, torch
from pathlib import Path
from gcsearch.data import Examples
from gcsearch.data.batches import Batches
from gcsearch.data.conversion import Source, convert
from gcsearch.data.store import open_images
block = np.ones((1024, 2, 128, 128), np.uint8)
read = lambda start: iter([block] * 4)
path = Path({str(tmp_path)!r}, "large.arrow")
convert(path, "x", Source(shape=(2, 128, 128), count=4096, description="", identity="", verification="",
        preprocessing="", read=read))
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
batches = Batches(Examples(open_images(path).images, "x"), 8, seed=0)
batches[0]
print((resident() - before) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 64


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], "must be a file of the image store"),
        (lambda data: b"", "must be a file of the image store"),
        (lambda data: b"no Arrow at all" * 10, "must be a file of the image store"),
        (lambda data: data.replace(b'"format": 1', b'"format": 9'), "its format is 9"),
        (lambda data: data.replace(b'"count": 50', b'"count": 49'), "do not describe its content"),
        (lambda data: data.replace(b'"shape": [3, 4, 5]', b'"shape": [3, 4, 4]'), "do not describe its content"),
        (lambda data: data.replace(b'"sha256"', b'"sha255"'), "incomplete"),
    ],
)
def test_damaged_file_is_refused_with_a_remedy(path, damage, words):
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    with pytest.raises(DataError, match=words) as caught:
        open_images(path)
    assert "prepare the data again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_arrow_file_is_refused(tmp_path):
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink:
        table = pa.table({"image": [b"abc"]})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(DataError, match="gcsearch did not write it"):
        open_images(tmp_path / "x.arrow")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.arrow: there must be a file"):
        open_images(tmp_path / "gone.arrow")


def test_flipped_bit_is_found_by_verification(path):
    stored = open_images(path)
    data = bytearray(path.read_bytes())
    data[stored.offset + 1234] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="sha256"):
        open_images(path).verify()


@pytest.mark.slow
def test_embedded_data_need_neither_pyarrow_nor_pillow_to_be_imported():
    code = """
import sys
for name in ("pyarrow", "PIL", "lmdb"):
    sys.modules[name] = None
from gcsearch.data import datasets
assert len(datasets["gaussians_1m2m"]().load()) == 10_000
assert datasets["cifar10"]().event_shape == (3, 32, 32)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
