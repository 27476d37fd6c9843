"""Sample grids, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gcsearch.metrics.grid import GREY, read_tiles, sample_grid, write_png


def numbered(num, channels=1, height=2, width=3):
    """Images whose pixels tell number, channel and place."""
    return torch.arange(num * channels * height * width).reshape(num, channels, height, width).to(torch.uint8)


def test_pixels_of_a_grey_grid():
    grid = sample_grid(numbered(3, height=1, width=2), columns=2, scale=1)
    expected = [[0, 1, GREY, 2, 3], [GREY] * 5, [4, 5, GREY, GREY, GREY]]
    assert grid.dtype == np.uint8
    assert grid.tolist() == expected


def test_pixels_become_squares_and_separators_stay_thin():
    grid = sample_grid(numbered(2, height=1, width=1), columns=2, scale=3)
    assert grid.tolist() == [[0, 0, 0, GREY, 1, 1, 1]] * 3


def test_colours_stay_with_their_pixels():
    images = numbered(4, channels=3)
    grid = sample_grid(images, columns=2, scale=2)
    assert grid.shape == (2 * 4 + 1, 2 * 6 + 1, 3)
    for number, (top, left) in enumerate([(0, 0), (0, 7), (5, 0), (5, 7)]):
        tile = grid[top : top + 4 : 2, left : left + 6 : 2]
        assert (tile == images[number].permute(1, 2, 0).numpy()).all()
    assert (grid[4] == GREY).all()
    assert (grid[:, 6] == GREY).all()


def test_small_images_are_enlarged_by_default():
    assert sample_grid(numbered(64, height=8, width=8)).shape == (8 * 65 - 1, 8 * 65 - 1)
    assert sample_grid(numbered(3, height=64, width=64)).shape == (64, 3 * 65 - 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_written_file_holds_the_grid(channels, tmp_path):
    path = tmp_path / "new" / "samples.png"
    images = numbered(5, channels=channels)
    for _ in range(2):  # the second time replaces the first
        write_png(path, images, columns=2, scale=2)
    with Image.open(path) as picture:
        assert picture.mode == ("L" if channels == 1 else "RGB")
        assert (np.asarray(picture) == sample_grid(images, columns=2, scale=2)).all()
    assert list(path.parent.iterdir()) == [path]


def test_failed_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "samples.png"
    write_png(path, numbered(2))
    before = path.read_bytes()

    def fail(self, target, **_):
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        write_png(path, numbered(4))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 4, 4), numbered(2, channels=2), numbered(2)[0], numbered(2)[:0]])
def test_other_tensors_are_refused(images):
    with pytest.raises(ValueError, match="uint8"):
        sample_grid(images)


@pytest.mark.parametrize("settings", [{"columns": 0}, {"scale": 0}])
def test_empty_layouts_are_refused(settings):
    with pytest.raises(ValueError, match="at least 1"):
        sample_grid(numbered(2), **settings)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_can_be_read_back_from_a_file(channels, tmp_path):
    images = numbered(10, channels=channels, height=3, width=3)
    write_png(tmp_path / "grid.png", images, columns=4, scale=2)
    tiles = read_tiles(tmp_path / "grid.png", columns=4)
    expected = images.permute(0, 2, 3, 1).numpy()
    assert tiles.shape[:3] == (12, 6, 6)
    assert (tiles[:10, ::2, 1::2].reshape(expected.shape) == expected).all()
    assert (tiles[10:] == GREY).all()
