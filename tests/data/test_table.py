"""Tables of images: Parquet, Arrow, and what Hugging Face saves."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from gcsearch.data.image_set import prepare
from gcsearch.data.table import Table, find_files
from gcsearch.errors import DataError


@pytest.fixture
def images(make):
    return make.pixels(20, 3, 16)


def column(make, images, kind):
    encoded = [make.png(image) for image in images]
    if kind == "struct":
        return pa.array([{"bytes": data, "path": None} for data in encoded])
    return pa.array(encoded, {"binary": pa.binary(), "large": pa.large_binary()}[kind])


def write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=3)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path, compression="zstd", chunksize=3)
    else:  # the stream format, as `datasets` writes it
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    return path


@pytest.mark.parametrize("suffix", ["parquet", "feather", "arrow"])
@pytest.mark.parametrize("kind", ["struct", "binary", "large"])
def test_every_format_and_column_gives_the_images(suffix, kind, images, make, tmp_path):
    table = pa.table({"label": list(range(20)), "picture": column(make, images, kind)})
    path = write(tmp_path / f"x.{suffix}", table)
    stored = prepare(Table(path=str(path), column="picture", resolution=16)).stored
    np.testing.assert_array_equal(stored.images, images)


@pytest.mark.parametrize("suffix", ["parquet", "feather", "arrow"])
@pytest.mark.parametrize("start", [0, 1, 7, 8, 13, 20])
def test_reading_may_begin_anywhere_in_several_files(suffix, start, images, make, tmp_path):
    for index, part in enumerate((images[:8], images[8:])):
        write(tmp_path / f"train-{index}.{suffix}", pa.table({"image": column(make, part, "struct")}))
    source = Table(path=str(tmp_path), resolution=16).open_source(tmp_path, trust=False)
    assert source.count == 20
    np.testing.assert_array_equal(np.concatenate([images[:0], *source.read(start)]), images[start:])


def test_splits_are_not_mixed(images, make, tmp_path):
    for split in ("train", "test"):
        write(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet", pa.table({"image": column(make, images, "struct")})
        )
    with pytest.raises(DataError, match=r"must be one split, but holds test, train\. .*/data/train-\*\.parquet'"):
        find_files(tmp_path)
    pattern = Table(path=str(tmp_path / "data/train-*.parquet"), resolution=16)
    assert prepare(pattern).stored.metadata.count == 20
    assert not prepare(pattern).is_new


def test_what_datasets_saves_is_read_without_its_caches(images, make, tmp_path):
    for index, part in enumerate((images[:8], images[8:])):
        write(tmp_path / f"data-{index:05d}-of-00002.arrow", pa.table({"image": column(make, part, "struct")}))
    write(tmp_path / "cache-123.arrow", pa.table({"image": column(make, images[:2], "struct")}))
    files = [{"filename": f"data-{index:05d}-of-00002.arrow"} for index in range(2)]
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": files}))
    np.testing.assert_array_equal(prepare(Table(path=str(tmp_path), resolution=16)).stored.images, images)


def test_saved_dict_of_splits_asks_for_one(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match="Name one of its folders: test, train"):
        find_files(tmp_path)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"img": [b"x"]}, "must have the column 'image'. Set `column` to one of img"),
        ({"image": [1, 2]}, "must hold encoded images: .* got int64"),
        ({"image": [{"path": "x.png"}]}, "must hold encoded images: .* got struct"),
        ({"image": [b"no image"]}, "row 0: must be an image that Pillow can read"),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_tables_that_hold_no_images_are_refused(table, words, suffix, tmp_path):
    path = write(tmp_path / f"x.{suffix}", pa.table(table))
    with pytest.raises(DataError, match=words) as caught:
        prepare(Table(path=str(path)))
    assert str(caught.value).startswith(str(path))


def test_row_without_bytes_is_named(images, make, tmp_path):
    values = [{"bytes": make.png(image), "path": "x"} for image in images]
    values[13]["bytes"] = None
    path = write(tmp_path / "x.parquet", pa.table({"image": values}))
    with pytest.raises(DataError, match=r"row 13 must hold the bytes of an image, got null\. Embed"):
        prepare(Table(path=str(path), resolution=16))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_damaged_table_is_refused(suffix, images, make, tmp_path):
    path = write(tmp_path / f"x.{suffix}", pa.table({"image": column(make, images, "struct")}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="must be a readable Parquet or Arrow file"):
        prepare(Table(path=str(path), resolution=16))


@pytest.mark.parametrize("name", ["gone.parquet", "*.parquet"])
def test_nothing_there_is_said_so(name, tmp_path):
    with pytest.raises(DataError, match="found nothing there"):
        prepare(Table(path=str(tmp_path / name)))


def test_folder_without_tables_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(DataError, match=r"must hold files that end in \.parquet"):
        find_files(tmp_path)
