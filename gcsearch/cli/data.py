"""The commands about data: data list, data prepare, data info."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from gcsearch.cli.console import print_json, progress, results
from gcsearch.config import Document, build, find_experiment, load_experiment
from gcsearch.data import Dataset, datasets
from gcsearch.data.conversion import Moments, Progress
from gcsearch.data.image_set import ImageSet, OwnImages, prepare
from gcsearch.data.inventory import inventory
from gcsearch.data.store import StoredImages
from gcsearch.errors import DataError
from gcsearch.files import default_data_dir

WIDE = 110
"""Columns from which the list shows the files."""

SECONDS_PER_LINE = 10.0
"""How often progress is told without a terminal."""


def list_command(store: Path | None, *, as_json: bool) -> None:
    """All data sets, and every file of the store."""
    folder = store or default_data_dir()
    rows = inventory(folder)
    if as_json:
        print_json({"store": str(folder), "data": rows})
        return
    is_wide = results.width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in ("data", "shape", "images", "state", "licence", *(["file"] if is_wide else [])):
        right = heading in ("shape", "images")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "licence")
    for row in rows:
        shape = " x ".join(map(str, row["shape"])) if row["shape"] else "any"
        count = f"{row['count']:,}" if row["count"] else ""
        style = {"prepared": "green", "embedded": "green", "damaged": "red"}.get(row["state"], "dim")
        cells = [_label(row), shape, count, f"[{style}]{row['state']}[/]", row["licence"]]
        table.add_row(*cells, *([Path(row["path"]).name if row["path"] else ""] if is_wide else []))
    results.print(table)
    progress.print(f"Store: {folder}", markup=False, soft_wrap=True)
    progress.print("Next: gcsearch data prepare NAME, or gcsearch data info NAME")


def _label(row: dict[str, Any]) -> str:
    """Name of the data set; of a user's own images, the folder's too."""
    if row["path"] is None or not issubclass(datasets[row["name"]], OwnImages):
        return str(row["name"])
    return " ".join(Path(row["path"]).stem.split("-")[:2])


def prepare_command(
    name: str,
    source: Path | None,
    resolution: int | None,
    assignments: Sequence[str],
    store: Path | None,
    *,
    again: bool,
    trust: bool,
    as_json: bool,
) -> int:
    """Convert a data set into the store and say what is there now. Exit code 130 if interrupted."""
    dataset = chosen(name, source, resolution, assignments)
    if not isinstance(dataset, ImageSet):
        if as_json:
            print_json({"name": dataset.name, "state": "embedded"})
        else:
            results.print(f"{dataset.name} is embedded; there is nothing to prepare.")
        return 0
    try:
        with _shown() as tell:
            done = prepare(dataset, source, store=store, again=again, trust=trust, progress=tell)
    except KeyboardInterrupt:
        progress.print("Interrupted. Run the same command again to go on.")
        return 130
    if as_json:
        print_json(_stored_json(done.stored) | {"is_new": done.is_new})
        return 0
    if not done.is_new:
        progress.print("Already prepared; nothing was done. --again converts once more.")
    _print_stored(done.stored)
    settings = ", ".join(f"{key}: {value}" for key, value in _changed(dataset).items())
    progress.print("Next: in an experiment", style="bold")
    progress.print(f"  data: {{{settings}}}", markup=False, soft_wrap=True)
    progress.print(f"  process: {{sigma_data: {done.stored.metadata.std:.2f}}}", markup=False)
    if store is not None:
        progress.print(f"and GCSEARCH_DATA={store} in the environment of every training.", markup=False, soft_wrap=True)
    return 0


def info_command(
    name: str,
    source: Path | None,
    resolution: int | None,
    assignments: Sequence[str],
    store: Path | None,
    *,
    verify: bool,
    as_json: bool,
) -> None:
    """What is known of a data set."""
    dataset = chosen(name, source, resolution, assignments)
    if not isinstance(dataset, ImageSet):
        _embedded_info(dataset, as_json=as_json)
        return
    stored = dataset.open(store)
    if verify:
        stored.verify()
    if as_json:
        print_json(_stored_json(stored) | {"licence": dataset.licence, "homepage": dataset.homepage})
        return
    _print_stored(stored, {"licence": dataset.licence, "homepage": dataset.homepage})
    if verify:
        progress.print("The pixels match the recorded hash.", style="green")


def _embedded_info(dataset: Dataset, *, as_json: bool) -> None:
    examples = dataset.load()
    moments = Moments.of(examples.values.numpy()) if examples.is_image else None
    values = {
        "name": dataset.name,
        "state": "embedded",
        "shape": list(dataset.event_shape),
        "count": len(examples),
        "sha256": examples.sha256,
        "channel_mean": list(moments.mean) if moments else None,
        "channel_std": list(moments.deviation) if moments else None,
        "std": moments.std if moments else float(examples.values.double().std(correction=0)),
    }
    if as_json:
        print_json(values)
    else:
        _print_pairs(values)


def chosen(name: str, source: Path | None, resolution: int | None, assignments: Sequence[str]) -> Dataset:
    """The data set that a command means: a name with options, or the data section of an experiment."""
    dataset: Dataset
    if name.endswith((".yaml", ".yml")):
        dataset = load_experiment(find_experiment(name), [f"data.{text}" for text in assignments]).data
    else:
        options: dict[str, Any] = {"name": name}
        if source is not None and issubclass(datasets[name], OwnImages):
            options["path"] = os.path.abspath(source.expanduser())  # noqa: PTH100 - links stay as the user wrote them
        document = Document(options, "command line").with_assignments(assignments)
        dataset = build("data", document.data, document)
    if resolution is None or resolution == getattr(dataset, "resolution", None):
        return dataset
    if "resolution" not in {field.name for field in dataclasses.fields(dataset)}:  # type: ignore[arg-type]
        shape = list(dataset.event_shape)
        raise DataError(f"data '{dataset.name}': --resolution must be left out, its examples have the shape {shape}.")
    try:
        return dataclasses.replace(dataset, resolution=resolution)  # type: ignore[type-var]
    except ValueError as error:
        raise DataError(f"data '{dataset.name}': {error}.") from None


def _changed(dataset: Dataset) -> dict[str, Any]:
    """Name and the fields that differ from their defaults."""
    fields = dataclasses.fields(dataset)  # type: ignore[arg-type]  # every component is a dataclass
    values = {field.name: getattr(dataset, field.name) for field in fields}
    return {"name": dataset.name} | {
        field.name: values[field.name] for field in fields if values[field.name] != field.default
    }


def _stored_json(stored: StoredImages) -> dict[str, Any]:
    return {
        "state": "prepared",
        "path": str(stored.path),
        "size_bytes": stored.path.stat().st_size,
        **dataclasses.asdict(stored.metadata),
    }


def _print_stored(stored: StoredImages, more: dict[str, str] | None = None) -> None:
    _print_pairs(_stored_json(stored) | (more or {}))


def _print_pairs(values: dict[str, Any]) -> None:
    """What a person wants to know, one line each."""

    def numbers(key: str) -> str:
        return ", ".join(f"{value:.2f}" for value in values[key] or [])

    shape = " x ".join(map(str, values["shape"]))
    lines = {
        "data": values["name"],
        "file": values.get("path"),
        "size": _size(values["size_bytes"]) if "size_bytes" in values else None,
        "examples": f"{values['count']:,} of {shape}",
        "source": values.get("source"),
        "checked": values.get("verification"),
        "preprocessing": values.get("preprocessing"),
        "mean of bytes": numbers("channel_mean"),
        "std of bytes": numbers("channel_std"),
        "sigma_data": f"{values['std']:.4f}",
        "licence": values.get("licence"),
        "homepage": values.get("homepage"),
        "sha256": values["sha256"],
    }
    for key, value in lines.items():
        if value:
            results.print(f"{key:<14} {value}", markup=False)


def _size(num_bytes: int) -> str:
    unit, scale = ("MB", 1e6) if num_bytes >= 1e6 else ("kB", 1e3)
    return f"{num_bytes / scale:,.1f} {unit}"


@contextmanager
def _shown() -> Iterator[Progress]:
    """Progress on stderr: a bar in a terminal, a line now and then elsewhere."""
    if not progress.is_terminal:
        last = time.monotonic()

        def tell(what: str, done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last >= SECONDS_PER_LINE:
                last = time.monotonic()
                progress.print(f"{what}: {done:,}" + (f" of {total:,}" if total else ""), soft_wrap=True)

        yield tell
        return
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), _Amount(), TimeRemainingColumn()]
    with Bar(*columns, console=progress, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def draw(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield draw


class _Amount(ProgressColumn):
    """Bytes of a download, images of a conversion."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes, self._images = DownloadColumn(), MofNCompleteColumn()

    def render(self, task: Any) -> Any:
        column = self._bytes if task.description.startswith("downloading") else self._images
        return column.render(task)
