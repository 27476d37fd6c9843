"""Reference features and their cache."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

import gcsearch.metrics.reference as module
from gcsearch.errors import DataError
from gcsearch.metrics.features import CoordinatesExtractor, DigitsExtractor
from gcsearch.metrics.reference import ReferenceFeatures, reference_features


class Counting(CoordinatesExtractor):
    """Counts the examples that it is asked for."""

    calls = 0

    @property
    def identity(self):
        return "counting"

    def load(self, device="cpu"):
        def function(points):
            Counting.calls += len(points)
            return points.float()

        return function


@pytest.fixture
def points(rng):
    Counting.calls = 0
    return torch.randn(1200, 3, generator=rng)


def assert_same(first, second):
    for field in dataclasses.fields(ReferenceFeatures):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        else:
            assert a == b


def test_second_call_reads_the_cache(points, tmp_path):
    first = reference_features(Counting(), points, "a", cache_dir=tmp_path / "new")
    again = reference_features(Counting(), points, "a", cache_dir=tmp_path / "new")
    assert Counting.calls == 1200
    assert_same(first, again)
    (file,) = (tmp_path / "new").iterdir()
    assert file.suffix == ".safetensors"
    assert len(file.stem) == 64


def test_without_a_cache_nothing_is_written(points, tmp_path, monkeypatch):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path))
    reference_features(Counting(), points, "a")
    reference_features(Counting(), points, "a")
    assert Counting.calls == 2400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["examples", "count", "extractor", "format"])
def test_every_part_of_the_identity_makes_a_new_entry(change, points, tmp_path, monkeypatch):
    reference_features(Counting(), points, "a", cache_dir=tmp_path)
    if change == "format":
        monkeypatch.setattr(module, "FORMAT_VERSION", 99)
    reference_features(
        CoordinatesExtractor() if change == "extractor" else Counting(),
        points[:-1] if change == "count" else points,
        "b" if change == "examples" else "a",
        cache_dir=tmp_path,
    )
    assert len(list(tmp_path.iterdir())) == 2


def flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-100],
    "not safetensors": lambda content: b"\xff" * len(content),
    "flipped bit": flip_a_bit,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_computed_again_with_a_warning(damage, points, tmp_path, caplog):
    first = reference_features(Counting(), points, "a", cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    sound = file.read_bytes()
    file.write_bytes(DAMAGES[damage](sound))
    with caplog.at_level(logging.WARNING):
        again = reference_features(Counting(), points, "a", cache_dir=tmp_path)
    assert "damaged" in caplog.text
    assert file.name in caplog.text
    assert_same(first, again)
    caplog.clear()
    assert_same(first, reference_features(Counting(), points, "a", cache_dir=tmp_path))
    assert caplog.text == ""
    assert Counting.calls == 2400
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_cache_that_cannot_be_written_is_a_warning(points, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with caplog.at_level(logging.WARNING):
        reference = reference_features(Counting(), points, "a", cache_dir=blocked)
    assert reference.count == 1200
    assert "could not be cached" in caplog.text


def test_failure_while_writing_leaves_no_file_behind(points, tmp_path, monkeypatch, caplog):
    def full_disk(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with caplog.at_level(logging.WARNING):
        reference_features(Counting(), points, "a", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert "No space left" in caplog.text


def test_root_squares_to_the_covariance(points):
    reference = reference_features(Counting(), points, "a")
    torch.testing.assert_close(reference.root @ reference.root, reference.covariance)
    assert reference.root is reference.root
    torch.testing.assert_close(reference.covariance, points.double().T.cov())


def test_examples_that_the_extractor_cannot_take_are_refused(points):
    with pytest.raises(ValueError, match=r"\[1, 8, 8\]"):
        reference_features(DigitsExtractor(), points, "a")


def test_too_few_or_damaged_examples_are_refused(points):
    with pytest.raises(DataError, match="at least 4"):
        reference_features(Counting(), points[:3], "a")
    points[5, 1] = float("nan")
    with pytest.raises(DataError, match="finite"):
        reference_features(Counting(), points, "a")
