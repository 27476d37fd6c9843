"""Conversion into the store: statistics, resuming, locks, memory."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gcsearch.data import conversion
from gcsearch.data.conversion import Moments, Source, convert
from gcsearch.data.store import open_images
from gcsearch.errors import DataError


def broken_after(source: Source, chunks: int) -> Source:
    """The source, with an error after some chunks."""

    def read(start):
        yield from itertools.islice(source.read(start), chunks)
        raise KeyboardInterrupt

    return dataclasses.replace(source, read=read)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), dtype=np.uint8)


@pytest.fixture
def always_noted(monkeypatch):
    """Progress is noted after every chunk."""
    monkeypatch.setattr(conversion, "SYNC_SECONDS", 0.0)


def test_statistics_equal_those_of_the_pixels(images, store, make):
    metadata = convert(store / "x.arrow", "x", make.source_of(images))
    assert metadata.channel_mean == pytest.approx(images.mean(axis=(0, 2, 3)), rel=1e-12)
    assert metadata.channel_std == pytest.approx(images.std(axis=(0, 2, 3)), rel=1e-12)
    assert metadata.std == pytest.approx((images / 127.5 - 1).std(), rel=1e-12)
    assert Moments.of(images) == Moments(mean=metadata.channel_mean, deviation=metadata.channel_std, std=metadata.std)


def test_constant_images_have_no_spread(store, make):
    metadata = convert(store / "x.arrow", "x", make.source_of(np.full((9, 1, 3, 3), 255, np.uint8)))
    assert (metadata.channel_mean, metadata.channel_std, metadata.std) == ((255.0,), (0.0,), 0.0)


def test_equal_sources_give_equal_files_however_they_are_cut(images, store, make):
    for chunk in (1, 7, 50, 64):
        convert(store / f"{chunk}.arrow", "x", make.source_of(images, chunk))
    contents = {path.read_bytes() for path in store.glob("*.arrow")}
    assert len(contents) == 1
    assert len(list(store.iterdir())) == 4  # nothing else is left behind


@pytest.mark.usefixtures("always_noted")
@pytest.mark.parametrize("chunks", [0, 1, 3, 7])
def test_interrupted_conversion_goes_on_and_gives_the_same_file(images, store, chunks, make):
    convert(store / "whole.arrow", "x", make.source_of(images))
    starts: list[int] = []
    source = make.source_of(images, starts=starts)
    with pytest.raises(KeyboardInterrupt):
        convert(store / "x.arrow", "x", broken_after(source, chunks))
    assert not (store / "x.arrow").exists()
    convert(store / "x.arrow", "x", source)
    assert starts == [0, 7 * chunks]
    assert (store / "x.arrow").read_bytes() == (store / "whole.arrow").read_bytes()


@pytest.mark.usefixtures("always_noted")
@pytest.mark.parametrize("what", ["pixels", "notes", "shorter", "longer", "source"])
def test_leftovers_that_cannot_be_trusted_are_not_used(images, store, what, make):
    convert(store / "whole.arrow", "x", make.source_of(images))
    starts: list[int] = []
    source = make.source_of(images, starts=starts)
    with pytest.raises(KeyboardInterrupt):
        convert(store / "x.arrow", "x", broken_after(source, 3))
    left, notes = store / "x.arrow.partial", store / "x.arrow.partial.json"
    data = left.read_bytes()
    if what == "pixels":
        left.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif what == "notes":
        notes.write_text("{")
    elif what == "shorter":
        left.write_bytes(data[:100])
    elif what == "longer":  # written after the last note: dropped, the rest is good
        left.write_bytes(data + b"torn")
    else:
        source = dataclasses.replace(source, identity="another")
    convert(store / "x.arrow", "x", source)
    assert starts == [0, 21 if what == "longer" else 0]
    if what != "source":
        assert (store / "x.arrow").read_bytes() == (store / "whole.arrow").read_bytes()
    open_images(store / "x.arrow").verify()


def test_two_processes_do_not_prepare_the_same_file(images, store, make):
    store.mkdir()
    with (store / "x.arrow.partial").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="one process at a time"):
            convert(store / "x.arrow", "x", make.source_of(images))
    convert(store / "x.arrow", "x", make.source_of(images))


def test_progress_rises_to_the_count(images, store, make):
    told = []
    convert(store / "x.arrow", "x", make.source_of(images), lambda *values: told.append(values))
    assert told[0] == ("converting", 0, 50)
    assert told[-1] == ("converting", 50, 50)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_full_disk_is_foreseen(images, store, monkeypatch, make):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(DataError, match="GB free"):
        convert(store / "x.arrow", "x", make.source_of(images))


def test_place_that_cannot_be_written_is_an_error_of_the_users(images, tmp_path, make):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="data 'x': the conversion to"):
        convert(tmp_path / "file" / "x.arrow", "x", make.source_of(images))


@pytest.mark.parametrize("count", [0, 49, 51])
def test_source_of_another_count_than_it_said_is_refused(images, store, count, make):
    with pytest.raises(DataError, match=f"must hold {count} images, got 50"):
        convert(store / "x.arrow", "x", dataclasses.replace(make.source_of(images), count=count))
    assert not (store / "x.arrow").exists()


def test_source_without_images_is_refused(images, store, make):
    empty = dataclasses.replace(make.source_of(images[:0]), count=None)
    with pytest.raises(DataError, match="at least one image, got 0"):
        convert(store / "x.arrow", "x", empty)


SLOW_CONVERSION = """
import sys, time
from pathlib import Path
import numpy as np
from gcsearch.data import conversion
from gcsearch.data.conversion import Source, convert
conversion.SYNC_SECONDS = 0.0
images = np.random.default_rng(0).integers(0, 256, (400, 3, 8, 8), dtype=np.uint8)
def read(start):
    for row in range(start, 400, 10):
        yield images[row : row + 10]
        time.sleep(float(sys.argv[2]))
convert(Path(sys.argv[1]), "x", Source(shape=(3, 8, 8), count=400, description="", identity="", verification="",
        preprocessing="", read=read))
"""


@pytest.mark.slow
def test_killed_conversion_is_resumed_to_the_same_file(store):
    def run(name, seconds):
        return subprocess.Popen([sys.executable, "-c", SLOW_CONVERSION, str(store / name), str(seconds)])

    whole, killed = run("whole.arrow", 0), run("x.arrow", 0.2)
    notes = store / "x.arrow.partial.json"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (notes.exists() and json.loads(notes.read_text())["count"] >= 20):
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert whole.wait() == 0
    assert not (store / "x.arrow").exists()
    assert run("x.arrow", 0).wait() == 0
    assert (store / "x.arrow").read_bytes() == (store / "whole.arrow").read_bytes()
    assert sorted(path.name for path in store.iterdir()) == ["whole.arrow", "x.arrow"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(store):
    """256 MiB are converted in a process that may not allocate 64 MiB more than it has."""
    code = f"""
import resource
from pathlib import Path
import numpy as np, pyarrow
from gcsearch.data.conversion import Source, convert
block = np.ones((64, 4, 128, 128), np.uint8)
used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**26, used + 2**26))
convert(Path({str(store)!r}, "x.arrow"), "x", Source(shape=(4, 128, 128), count=4096, description="", identity="",
        verification="", preprocessing="", read=lambda start: iter([block] * 64)))
try:
    np.ones(2**27, np.uint8)
except MemoryError:
    print("the limit holds")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "the limit holds\n"
    assert open_images(store / "x.arrow").metadata.count == 4096
