"""Speed of the image store: conversion, opening, random batches. Figures are in benchmarks/README.md.

    .venv/bin/python benchmarks/data.py [--json FILE]

Writes 50,000 random images of CIFAR-10's size into a temporary store, so it needs no data and 0.4 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from gcsearch.data import Examples
from gcsearch.data.batches import Batches
from gcsearch.data.conversion import Source, convert
from gcsearch.data.store import open_images

COUNT, SHAPE, BATCH = 50_000, (3, 32, 32), 512
REPEATS = 200


def random_images(start: int) -> Iterator[np.ndarray]:
    stream = np.random.default_rng(0)
    for _ in range(start, COUNT, 1000):
        yield stream.integers(0, 256, (1000, *SHAPE), dtype=np.uint8)


def milliseconds(function: Callable[[int], object], repeats: int = REPEATS) -> dict[str, float]:
    times = []
    for index in range(repeats):
        started = time.perf_counter()
        function(index)
        times.append(1000 * (time.perf_counter() - started))
    return {"median_ms": statistics.median(times), "p95_ms": sorted(times)[int(0.95 * repeats)]}


def measure(folder: Path) -> dict[str, dict[str, float]]:
    path = folder / "images.arrow"
    source = Source(
        shape=SHAPE,
        count=COUNT,
        description="random",
        identity="random",
        verification="none",
        preprocessing="none",
        read=random_images,
    )
    started = time.perf_counter()
    convert(path, "random", source)
    rows = {f"convert {COUNT:,} images": {"median_ms": 1000 * (time.perf_counter() - started)}}
    open_images(path)
    rows["open and map"] = milliseconds(lambda _: open_images(path).images)
    stored = open_images(path)
    started = time.perf_counter()
    stored.verify()
    rows["verify the hash"] = {"median_ms": 1000 * (time.perf_counter() - started)}

    values, memory = stored.images, stored.images.clone()
    order = [torch.from_numpy(np.random.default_rng(i).permutation(COUNT)[:BATCH]) for i in range(REPEATS)]
    rows[f"bytes of {BATCH}, mapped"] = milliseconds(lambda i: values.index_select(0, order[i]))
    rows[f"bytes of {BATCH}, in memory"] = milliseconds(lambda i: memory.index_select(0, order[i]))
    rows[f"bytes of {BATCH}, by values[indices]"] = milliseconds(lambda i: values[order[i]])
    batches = Batches(Examples(values, "known"), BATCH, seed=0)
    rows[f"training batch of {BATCH}, float32"] = milliseconds(lambda i: batches[i % 97])
    chw = Examples(values)
    rows["the same without the order"] = milliseconds(lambda i: Examples(chw.select(order[i])).scaled())
    hwc = values.view(COUNT, 32, 32, 3)  # as if stored in the other order
    rows["the same, stored as H, W, C"] = milliseconds(
        lambda i: hwc.index_select(0, order[i]).permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(127.5).sub_(1)
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    output = parser.parse_args().json
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    print(f"{'what':<36} {'median ms':>10} {'p95 ms':>10}")
    for name, row in rows.items():
        tail = f"{row['p95_ms']:10.3f}" if "p95_ms" in row else f"{'-':>10}"
        print(f"{name:<36} {row['median_ms']:10.3f} {tail}")
    if output:
        host = {"cpu_cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}
        output.write_text(json.dumps({"host": host, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
