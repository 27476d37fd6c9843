"""Images in a column of Parquet or Arrow files, as Hugging Face stores them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from gcsearch.data.base import datasets
from gcsearch.data.conversion import Pixels, Source
from gcsearch.data.decoding import Decoder
from gcsearch.data.folder import own_stem
from gcsearch.data.image_files import identity_of
from gcsearch.data.image_set import OwnImages
from gcsearch.errors import DataError

SUFFIXES: Final = (".parquet", ".arrow", ".feather")
SPLITS: Final = ("train", "test", "validation", "valid", "val")
ROWS: Final = 256


@datasets.register("table")
@dataclass(frozen=True, kw_only=True)
class Table(OwnImages):
    """Encoded images in a column of Parquet or Arrow files, in the order of files and rows.

    Takes what the Hugging Face hub holds (Parquet) and what `datasets` saves (Arrow): a column of bytes, or of structs
    with the field `bytes`. `datasets` itself is not needed.

    Attributes:
        path: File, folder of such files, or a pattern such as ``data/train-*.parquet``.
        column: Column that holds the images.
    """

    path: str = "images.parquet"
    column: str = "image"
    wanted = "a Parquet or Arrow file, a folder of them, or a pattern such as 'data/train-*.parquet'"

    @property
    def file_stem(self) -> str:
        return own_stem("table", self.location, self.resolution, self.channels, self.filter, self.column)

    def open_source(self, path: Path, *, trust: bool) -> Source:
        del trust
        files = find_files(path)
        counts = [_count(file, self.column) for file in files]
        states = [file.stat() for file in files]

        def read(start: int) -> Iterator[Pixels]:
            position = 0
            for file, count in zip(files, counts, strict=True):
                skip = min(max(0, start - position), count)
                position += count
                if skip < count:
                    yield from _decode(file, self.column, skip, self.decoder)

        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        return Source(
            shape=(self.channels, self.resolution, self.resolution),
            count=sum(counts),
            description=f"{files[0].name}{more}, column {self.column}",
            identity=identity_of(
                f"{file.name}\0{state.st_size}\0{state.st_mtime_ns}" for file, state in zip(files, states, strict=True)
            ),
            verification="your own images",
            preprocessing=str(self.decoder),
            read=read,
        )


def find_files(path: Path) -> list[Path]:
    """Files of a table, in order.

    Raises:
        DataError: None, or several splits that were not meant to be mixed.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        files = sorted(file for file in Path(path.anchor or ".").glob(_relative(path)) if file.is_file())
        if not files:
            raise DataError(f"{path}: must be {Table.wanted}, found nothing there.")
        return files
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(child.name for child in path.iterdir() if child.is_dir()))
        raise DataError(f"{path}: must be one split of the data set. Name one of its folders: {splits}.")
    if (path / "state.json").is_file():  # written by `datasets`; other Arrow files beside it are its caches
        return _saved_files(path)
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{path}: must hold files that end in {', '.join(SUFFIXES)}, found none.")
    splits_found = {file.name.split("-")[0].split(".")[0] for file in files} & set(SPLITS)
    if len(splits_found) > 1:
        example = "train" if "train" in splits_found else min(splits_found)
        raise DataError(
            f"{path}: must be one split, but holds {', '.join(sorted(splits_found))}. "
            f"Name the files of one, for example '{files[0].parent / example}-*{files[0].suffix}'."
        )
    return files


def _saved_files(path: Path) -> list[Path]:
    """Files that `datasets` names in its `state.json`."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path / 'state.json'}: must list the data files, but {type(error).__name__}: {error}. "
            "Save the data set again, or name its files with a pattern."
        ) from None
    for name in names:
        if Path(name).name != name:
            raise DataError(f"{path / 'state.json'}: must name files of its own folder, got '{name}'. Do not use it.")
    return [path / name for name in names]


def _relative(pattern: Path) -> str:
    return str(pattern.relative_to(pattern.anchor)) if pattern.anchor else str(pattern)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Errors of the reader as errors of the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: must be a readable Parquet or Arrow file, but {str(error).splitlines()[0]}."
        ) from None


@contextmanager
def _arrow(file: Path) -> Iterator[Any]:
    """Reader of an Arrow file, in the file format or in the stream format that `datasets` writes."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        with pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source) as reader:
            yield reader


def _count(file: Path, column: str) -> int:
    """Rows of a file; checks that the column is there and can hold images."""
    import pyarrow.parquet as pq

    with _readable(file):
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as parquet:
                schema, count = parquet.schema_arrow, parquet.metadata.num_rows
        else:
            with _arrow(file) as reader:
                schema = reader.schema
                count = sum(batch.num_rows for batch in _arrow_batches(reader))
    _check_column(file, schema, column)
    return int(count)


def _check_column(file: Path, schema: Any, column: str) -> None:
    import pyarrow.types as kinds

    if column not in schema.names:
        raise DataError(f"{file}: must have the column '{column}'. Set `column` to one of {', '.join(schema.names)}.")
    kind = schema.field(column).type
    if kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (kinds.is_binary(kind) or kinds.is_large_binary(kind)):
        raise DataError(
            f"{file}: column '{column}' must hold encoded images: bytes, or structs with the field bytes; "
            f"got {schema.field(column).type}."
        )


def _arrow_batches(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(reader)


def _decode(file: Path, column: str, skip: int, decoder: Decoder) -> Iterator[Pixels]:
    """Pixels of a file's rows from row `skip` on."""
    import pyarrow.parquet as pq

    with _readable(file):
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as parquet:
                yield from _rows(file, parquet.iter_batches(ROWS, columns=[column]), column, skip, decoder)
        else:
            with _arrow(file) as reader:
                yield from _rows(file, _arrow_batches(reader), column, skip, decoder)


def _rows(file: Path, batches: Iterator[Any], column: str, skip: int, decoder: Decoder) -> Iterator[Pixels]:
    import pyarrow.types as kinds

    position = 0
    for batch in batches:
        first, position = position, position + batch.num_rows
        if position <= skip:
            continue
        values = batch.column(batch.schema.get_field_index(column))
        if kinds.is_struct(values.type):
            values = values.field("bytes")
        for start in range(max(0, skip - first), len(values), ROWS):
            part = values[start : start + ROWS]
            encoded = {f"{file}: row {first + start + index}": value for index, value in enumerate(part)}
            yield from decoder.chunks(list(encoded), partial(_bytes, encoded))


def _bytes(encoded: dict[str, Any], name: str) -> bytes:
    data = encoded[name].as_py()
    if data is None:
        raise DataError(f"{name} must hold the bytes of an image, got null. Embed the images in the table.")
    return bytes(data)
