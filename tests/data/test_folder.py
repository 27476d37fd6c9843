"""A user's own images: where they are stored, and what happens when they change."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest

from gcsearch.data.folder import Folder
from gcsearch.data.image_set import prepare
from gcsearch.errors import DataError


@pytest.fixture
def folder(make, tmp_path):
    return make.write_folder(tmp_path / "my photos", make.pixels(10, 3, 16))


def test_images_of_the_right_size_are_stored_as_they_are(folder, make):
    dataset = Folder(path=str(folder), resolution=16)
    stored = prepare(dataset).stored
    np.testing.assert_array_equal(stored.images, make.pixels(10, 3, 16))
    assert stored.metadata.source == "my photos/ (folder)"


@pytest.mark.parametrize(
    "other", [{"resolution": 8}, {"channels": 1}, {"filter": "box"}, {"path": "elsewhere"}, {"path": "x/my photos"}]
)
def test_every_setting_has_a_file_of_its_own(folder, other):
    base = {"path": str(folder), "resolution": 16}
    assert Folder(**base).stored_at() != Folder(**(base | other)).stored_at()


def test_path_may_be_relative_or_not(folder, monkeypatch):
    expected = Folder(path=str(folder)).stored_at()
    with contextlib.chdir(folder.parent):
        assert Folder(path="my photos").stored_at() == expected
        assert Folder(path="./x/../my photos/").stored_at() == expected
    monkeypatch.setenv("HOME", str(folder.parent))
    assert Folder(path="~/my photos").stored_at() == expected


def test_prepared_twice_gives_the_same_file(folder):
    dataset = Folder(path=str(folder), resolution=8)
    first = prepare(dataset)
    content = first.stored.path.read_bytes()
    again, forced = prepare(dataset), prepare(dataset, again=True)
    assert (first.is_new, again.is_new, forced.is_new) == (True, False, True)
    assert forced.stored.path.read_bytes() == content


def test_changed_images_are_noticed_and_taken_when_asked(folder, make):
    dataset = Folder(path=str(folder), resolution=16)
    prepare(dataset)
    (folder / "a/extra.png").write_bytes(make.png(make.pixels(1, 3, 16)[0]))
    with pytest.raises(DataError, match=r"has changed.*--again"):
        prepare(dataset)
    assert len(dataset.load()) == 10
    assert prepare(dataset, again=True).stored.metadata.count == 11


def test_images_may_be_removed_once_they_are_prepared(folder):
    dataset = Folder(path=str(folder), resolution=16)
    prepare(dataset)
    folder.rename(folder.with_name("archive"))
    assert not prepare(dataset).is_new
    assert len(dataset.load()) == 10


def test_damaged_image_is_named_and_the_rest_waits(folder):
    file = folder / "b/c/00007.png"
    good = file.read_bytes()
    file.write_bytes(good[:50])
    dataset = Folder(path=str(folder), resolution=16)
    with pytest.raises(DataError, match=r"b/c/00007\.png: must be an image"):
        prepare(dataset)
    assert not dataset.stored_at().exists()
    file.write_bytes(good)
    assert prepare(dataset).stored.metadata.count == 10


def test_what_is_missing_is_said_with_the_command(folder):
    with pytest.raises(DataError) as caught:
        Folder(path=str(folder), resolution=16, channels=1).load()
    command = f"gcsearch data prepare folder --from '{folder}' --resolution 16 --set channels=1"
    assert str(caught.value) == f"data 'folder': must be prepared first. Run {command}."


@pytest.mark.parametrize("settings", [{"path": " "}, {"resolution": 0}, {"channels": 2}, {"channels": 4}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must"):
        Folder(**settings)


def test_shape_is_known_without_the_images():
    assert Folder(path="/nowhere", resolution=48).event_shape == (3, 48, 48)
    assert Folder(path="/nowhere", resolution=48, channels=1).event_shape == (1, 48, 48)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_named(folder):
    (folder / "a/00000.png").chmod(0)
    with pytest.raises(DataError, match=r"00000\.png: must be readable, but Permission denied"):
        prepare(Folder(path=str(folder), resolution=16))
