"""From the bytes of an image file to pixels of one size, as the papers do it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from gcsearch.data.conversion import Pixels
from gcsearch.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Filter = Literal["bilinear", "lanczos", "bicubic", "box"]

CHUNK: Final = 64
"""Images that are decoded before they are handed on: seconds of work, even for large photographs."""

MODES: Final = {1: "L", 3: "RGB"}

MAX_PIXELS: Final = 1 << 27
"""Most pixels of a resized image, 0.4 GB; an image of one row would become far more."""

DEEP_MODES: Final = ("I", "F")
"""Beginnings of PIL's names for more than 8 bits per channel, which would be clipped without a word."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Decode, crop, resize the shorter side, crop the centre: torchvision's `Resize` and `CenterCrop` on PIL images.

    Attributes:
        resolution: Height and width of the result.
        channels: 3 for RGB, 1 for grey.
        filter: How to resize; PIL's filters weigh all source pixels, so none of them aliases.
        crop: Side of the central square to cut out first; None keeps all.
        upright: Turn photographs as their camera noted.
        size: (width, height) that every image must have; None for any.
    """

    resolution: int
    channels: int = 3
    filter: Filter = "lanczos"
    crop: int | None = None
    upright: bool = False
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        steps = ["RGB" if self.channels == 3 else "grey"]
        steps += ["upright"] if self.upright else []
        steps += [f"centre crop {self.crop}"] if self.crop else []
        side = self.resolution
        return ", ".join([*steps, f"shorter side to {side} ({self.filter})", f"centre crop {side}"])

    def __call__(self, data: bytes, name: str) -> Pixels:
        """Pixels (C, resolution, resolution) of an encoded image.

        Raises:
            DataError: The bytes are no image, or not one of the required size.
        """
        import PIL.Image

        try:
            with PIL.Image.open(io.BytesIO(data)) as image:
                image.load()
                return self._fit(image, name)
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise DataError(
                f"{name}: must be an image that Pillow can read, but {error}. Repair or remove it."
            ) from None

    def _fit(self, image: Image, name: str) -> Pixels:
        import PIL.Image
        import PIL.ImageOps

        if image.mode.startswith(DEEP_MODES):
            raise DataError(f"{name}: must have 8 bits per channel, got mode {image.mode}. Convert it first.")
        if self.size and image.size != self.size:
            raise DataError(f"{name}: must be {self.size[0]} x {self.size[1]}, got {image.size[0]} x {image.size[1]}.")
        if self.upright:
            image = PIL.ImageOps.exif_transpose(image)
        image = image.convert(MODES[self.channels])
        if self.crop:
            if min(image.size) < self.crop:
                raise DataError(f"{name}: must be at least {self.crop} wide and high, got {image.size}. Lower `crop`.")
            image = _centre(image, self.crop)
        width, height = image.size
        short = min(width, height)
        if short != self.resolution:
            # The longer side is rounded down, as torchvision does.
            width, height = (int(self.resolution * side / short) for side in (width, height))
            if width * height > MAX_PIXELS:
                raise DataError(f"{name}: must not be that long and narrow, got {image.size}. Crop or remove it.")
            image = image.resize((width, height), PIL.Image.Resampling[self.filter.upper()])
        pixels = np.asarray(_centre(image, self.resolution))
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)

    def chunks(self, names: Sequence[str], read: Callable[[str], bytes]) -> Iterator[Pixels]:
        """Pixels (k, C, H, W) of the named images, in their order; decoded in threads.

        Args:
            names: Images.
            read: Bytes of an image.
        """
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            for start in range(0, len(names), CHUNK):
                yield np.stack(list(pool.map(lambda name: self(read(name), name), names[start : start + CHUNK])))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C nobody waits for the rest


def _centre(image: Image, side: int) -> Image:
    """Central square; the odd pixel goes where torchvision's `CenterCrop` leaves it."""
    left, top = (round((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))
