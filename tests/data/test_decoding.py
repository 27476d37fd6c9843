"""From encoded images to pixels: equality with torchvision, and every image that cannot be taken."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from gcsearch.data.decoding import Decoder
from gcsearch.errors import DataError

SIZES = [(178, 218), (218, 178), (33, 32), (32, 33), (500, 375), (31, 97), (64, 64), (65, 67)]


def photograph(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("bilinear", InterpolationMode.BILINEAR),
        ("lanczos", InterpolationMode.LANCZOS),
        ("bicubic", InterpolationMode.BICUBIC),
        ("box", InterpolationMode.BOX),
    ],
)
@pytest.mark.parametrize("crop", [None, 31])
def test_pixels_equal_those_of_torchvision(size, name, mode, crop):
    image = photograph(*size)
    before = [transforms.CenterCrop(crop)] if crop else []
    theirs = transforms.Compose([*before, transforms.Resize(32, mode), transforms.CenterCrop(32)])(image)
    ours = Decoder(resolution=32, filter=name, crop=crop)(encoded(image), "x.png")
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))


def test_grey_is_the_luminance():
    image = photograph(32, 32)
    ours = Decoder(resolution=32, channels=1)(encoded(image), "x.png")
    assert ours.shape == (1, 32, 32)
    weights = np.asarray(image).astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(ours[0], weights, atol=1)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_kinds_of_images_become_rgb(mode):
    image = photograph(40, 40).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    ours = Decoder(resolution=40)(data, "x")
    np.testing.assert_array_equal(ours, np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def test_photographs_are_turned_as_the_camera_noted_if_asked():
    image = photograph(40, 20)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: rotate by 270 degrees
    data = encoded(image, exif=turned)
    np.testing.assert_array_equal(
        Decoder(resolution=20, upright=True)(data, "x"),
        Decoder(resolution=20)(encoded(image.transpose(Image.Transpose.ROTATE_270)), "x"),
    )
    np.testing.assert_array_equal(Decoder(resolution=20)(data, "x"), Decoder(resolution=20)(encoded(image), "x"))


@pytest.mark.parametrize(
    ("data", "decoder", "words"),
    [
        (b"", Decoder(resolution=8), "must be an image that Pillow can read"),
        (b"GIF89a", Decoder(resolution=8), "must be an image that Pillow can read"),
        (encoded(photograph(64, 64))[:400], Decoder(resolution=8), "must be an image that Pillow can read"),
        (encoded(photograph(30, 40)), Decoder(resolution=8, crop=31), "at least 31 wide and high"),
        (encoded(photograph(30, 40)), Decoder(resolution=8, size=(40, 30)), "must be 40 x 30, got 30 x 40"),
        (encoded(Image.new("I;16", (8, 8))), Decoder(resolution=8), "8 bits per channel, got mode I;16"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), Decoder(resolution=8), "8 bits per channel, got mode F"),
    ],
)
def test_image_that_cannot_be_taken_is_named(data, decoder, words):
    with pytest.raises(DataError, match=words) as caught:
        decoder(data, "a/b.png")
    assert str(caught.value).startswith("a/b.png: ")


def test_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"x\.png: must be an image"):
        Decoder(resolution=8)(encoded(photograph(64, 64)), "x.png")


def test_images_come_in_order_and_in_chunks_of_bounded_size():
    images = {str(index): encoded(Image.new("RGB", (64, 64), (index, 0, 0))) for index in range(200)}
    chunks = list(Decoder(resolution=64).chunks(list(images), images.__getitem__))
    assert [int(image[0, 0, 0]) for chunk in chunks for image in chunk] == list(range(200))
    assert [len(chunk) for chunk in chunks] == [64, 64, 64, 8]
