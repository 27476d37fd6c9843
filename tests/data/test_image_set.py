"""Laws of every data set that is prepared. A new one is tested here unasked."""

from __future__ import annotations

import contextlib
import shlex
from unittest import mock

import numpy as np
import pytest
import torch

from gcsearch.cli.data import chosen
from gcsearch.config import build
from gcsearch.data import datasets
from gcsearch.data.batches import Batches
from gcsearch.data.conversion import convert
from gcsearch.data.image_set import ImageSet, OwnImages, prepare
from gcsearch.data.store import open_images
from gcsearch.errors import DataError

NAMES = [name for name in datasets if issubclass(datasets[name], ImageSet)]


def test_every_one_has_a_small_source(make):
    assert set(make.sources) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestImageSet:
    def test_shape_is_known_without_any_file(self, name):
        with (
            mock.patch("pathlib.Path.open", side_effect=AssertionError),
            mock.patch("builtins.open", side_effect=AssertionError),
        ):
            shape = datasets[name]().event_shape
        assert len(shape) == 3
        assert shape[1] == shape[2] == datasets[name]().resolution

    def test_missing_data_are_said_with_a_command_that_names_them(self, name, make, tmp_path):
        dataset, _ = make.sources[name](tmp_path / "s")
        with pytest.raises(DataError) as caught:
            dataset.load()
        message = str(caught.value)
        assert message.startswith(f"data '{name}': must be prepared first")
        assert f"Run gcsearch data prepare {name} --from " in message
        assert "\n" not in message

    def test_the_command_of_the_message_means_the_same_data(self, name, make, tmp_path):
        dataset, source = make.sources[name](tmp_path / "s")
        words = shlex.split(dataset.prepare_command(str(source)))
        assert words[:3] == ["gcsearch", "data", "prepare"]
        options = dict(zip(words[4::2], words[5::2], strict=True))
        resolution = int(options["--resolution"]) if "--resolution" in options else None
        assert chosen(words[3], source, resolution, []) == dataset

    def test_examples_come_from_the_file_and_equal_the_source(self, name, make, tmp_path):
        dataset, path = make.sources[name](tmp_path / "s")
        source = dataset.open_source(path, trust=True)
        stored = prepare(dataset, path, trust=True).stored
        pixels = np.concatenate(list(source.read(0)))
        np.testing.assert_array_equal(stored.images, pixels)
        examples = dataset.load()
        assert examples.values.shape == (len(pixels), *dataset.event_shape)
        assert examples.sha256 == stored.metadata.sha256
        assert stored.metadata.channel_mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), rel=1e-12)
        assert stored.metadata.channel_std == pytest.approx(pixels.std(axis=(0, 2, 3)), rel=1e-12)
        assert stored.metadata.std == pytest.approx(float(examples.scaled().double().std(correction=0)), rel=1e-6)
        stored.verify()

    @pytest.mark.parametrize("start", [1, 4])
    def test_reading_from_the_middle_gives_the_rest(self, name, start, make, tmp_path):
        dataset, path = make.sources[name](tmp_path / "s")
        source = dataset.open_source(path, trust=True)
        whole, rest = (np.concatenate(list(source.read(first))) for first in (0, start))
        np.testing.assert_array_equal(rest, whole[start:])

    def test_another_process_or_day_gives_the_same_file(self, name, make, tmp_path):
        dataset, path = make.sources[name](tmp_path / "s")
        contents = []
        for number in range(2):
            prepared = prepare(dataset, path, store=tmp_path / str(number), trust=True)
            contents.append(prepared.stored.path.read_bytes())
        assert contents[0] == contents[1]
        if not issubclass(datasets[name], OwnImages):
            assert str(tmp_path).encode() not in contents[0]

    def test_interrupted_preparation_goes_on_to_the_same_file(self, name, make, tmp_path, monkeypatch):
        monkeypatch.setattr("gcsearch.data.conversion.SYNC_SECONDS", 0.0)
        monkeypatch.setattr("gcsearch.data.decoding.CHUNK", 2)
        monkeypatch.setattr("gcsearch.data.fashion_mnist.CHUNK", 7)
        dataset, path = make.sources[name](tmp_path / "s")
        whole = prepare(dataset, path, store=tmp_path / "whole", trust=True).stored.path.read_bytes()

        def interrupt(_, done, total):
            if done > 1 and (total is None or done < total):
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            prepare(dataset, path, trust=True, progress=interrupt)
            pytest.fail("was not interrupted")
        stored = prepare(dataset, path, trust=True).stored
        assert stored.path.read_bytes() == whole

    def test_batches_are_those_of_the_same_images_in_memory(self, name, ready):
        examples = ready(name).load()
        copy = type(examples)(examples.values.clone())
        assert copy.sha256 == examples.sha256
        for step in (0, 3):
            mapped, loaded = (Batches(each, 4, seed=1)[step] for each in (examples, copy))
            torch.testing.assert_close(mapped, loaded, rtol=0, atol=0)

    def test_file_of_another_shape_is_refused(self, name, ready, make):
        dataset = ready(name)
        convert(dataset.stored_at(), name, make.source_of(make.pixels(4, 3, 5)))
        with pytest.raises(DataError, match=r"images must have the shape \[\d, \d+, \d+\], got \[3, 5, 5\]"):
            dataset.load()

    def test_licence_and_origin_are_stated(self, name):
        cls = datasets[name]
        assert cls.licence
        assert cls.wanted
        if not issubclass(cls, OwnImages):
            assert cls.homepage.startswith("https://")
            assert cls.num_published > 1000


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("cifar10", "fashion_mnist", "folder", "table")]
)
def test_what_no_program_may_download_is_said_so(name):
    with pytest.raises(
        DataError, match=rf"cannot be downloaded by a program\. https://.* data prepare {name} --from PATH"
    ):
        prepare(build("data", name))


def test_preparing_again_keeps_the_file_that_others_read(ready, tmp_path, make):
    """A training that has the old file mapped goes on with the old pixels."""
    dataset = ready("cifar10")
    mapped = open_images(dataset.stored_at()).images
    before = mapped.clone()
    other = make.write_tar(tmp_path / "o.tar.gz", make.cifar_batches(make.pixels(23, 3, 32, seed=1), is_binary=True))
    prepare(dataset, other, trust=True, again=True)
    torch.testing.assert_close(mapped, before, rtol=0, atol=0)
    assert (dataset.load().values != before).any()
