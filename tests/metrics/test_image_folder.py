"""Reading images of other programs, and refusing what would be scored wrongly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gcsearch.errors import DataError
from gcsearch.metrics.image_folder import image_paths, read_images


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path, rng):
    """Twelve grey images of 5 x 7 pixels, some in folders of their own, and files that are no images."""
    images = torch.randint(0, 256, (12, 1, 5, 7), generator=rng, dtype=torch.uint8)
    for index, image in enumerate(images):
        write(tmp_path / ("b" if index > 7 else "a") / f"{index:02d}.PNG", image[0].numpy())
    (tmp_path / "notes.txt").write_text("no image")
    write(tmp_path / ".thumbnails" / "00.png", np.zeros((9, 9)))
    return tmp_path, images


def test_pixels_come_back_in_the_order_of_the_paths(folder):
    path, images = folder
    assert [found.name for found in image_paths(path)] == [f"{index:02d}.PNG" for index in range(12)]
    torch.testing.assert_close(read_images(path, (1, 5, 7)), images, rtol=0, atol=0)


def test_colours_come_back_too(tmp_path, rng):
    pixels = torch.randint(0, 256, (6, 4, 3), generator=rng, dtype=torch.uint8)
    write(tmp_path / "x.png", pixels.numpy())
    torch.testing.assert_close(read_images(tmp_path, (3, 6, 4))[0], pixels.permute(2, 0, 1), rtol=0, atol=0)


def test_a_number_of_images_is_chosen_at_random_by_the_seed(folder):
    path, images = folder
    chosen = [read_images(path, (1, 5, 7), 5, seed) for seed in (0, 0, 1)]
    assert chosen[0].shape == (5, 1, 5, 7)
    assert all(any((image == other).all() for other in images) for image in chosen[0])
    torch.testing.assert_close(chosen[0], chosen[1], rtol=0, atol=0)
    assert (chosen[0] != chosen[2]).any()
    assert (chosen[0] != images[:5]).any()
    torch.testing.assert_close(read_images(path, (1, 5, 7), 12), images, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((5, 8)), r"05\.png: must be 7 x 5 pixels like the data, got 8 x 5"),
        (np.zeros((5, 7, 3)), r"05\.png: must be grey like the data, but is RGB"),
        (np.zeros((5, 7, 4)), r"05\.png: must be grey like the data, but is of mode RGBA"),
    ],
)
def test_an_image_that_does_not_fit_is_named(pixels, message, folder):
    path, _ = folder
    write(path / "a" / "05.png", pixels)
    with pytest.raises(DataError, match=message):
        read_images(path, (1, 5, 7))


@pytest.mark.parametrize("content", [b"", b"no image", "half"])
def test_an_image_that_cannot_be_read_is_named(content, folder):
    path, _ = folder
    whole = (path / "a" / "00.PNG").read_bytes()
    (path / "a" / "03.png").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(DataError, match=r"03\.png: must be a readable image") as caught:
        read_images(path, (1, 5, 7))
    assert "\n" not in str(caught.value)


def test_grey_images_are_not_taken_for_colour(folder):
    path, _ = folder
    with pytest.raises(DataError, match="must be RGB like the data, but is grey"):
        read_images(path, (3, 5, 7))


def test_an_empty_folder_and_too_few_images_are_refused(folder, tmp_path):
    path, _ = folder
    with pytest.raises(DataError, match="at least --num = 13 images, got 12"):
        read_images(path, (1, 5, 7), 13)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"must be an export .* or hold PNG or JPEG images"):
        read_images(tmp_path / "empty", (1, 5, 7))
