"""Images in a folder, as they stand there: what other programs hand over to be scored."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gcsearch.errors import DataError
from gcsearch.science.randomness import generator

SUFFIXES: Final = (".png", ".jpg", ".jpeg")
MODES: Final = {"L": "grey", "RGB": "RGB"}
NEEDED: Final = {1: "L", 3: "RGB"}
"""Mode of an image by its number of channels. Nothing is converted: the conversion would be scored too."""


def image_paths(folder: Path) -> list[Path]:
    """Images below a folder, in the order of their paths; hidden files are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def read_images(folder: Path, event_shape: tuple[int, ...], num: int | None = None, seed: int = 0) -> Tensor:
    """Images below a folder as bytes (N, C, H, W).

    Args:
        folder: Folder with PNG or JPEG files, also in folders of its own.
        event_shape: (C, H, W) that every image must have.
        num: How many to take, chosen at random; None takes all.
        seed: Of the choice.

    Raises:
        DataError: Too few images, or one that cannot be read or is of another size or colour; the message names it.
    """
    paths = image_paths(folder)
    if not paths:
        raise DataError(
            f"{folder}: must be an export (best.yaml and model.safetensors) or hold PNG or JPEG images, but it holds "
            "neither."
        )
    if num is not None and num > len(paths):
        raise DataError(f"{folder}: must hold at least --num = {num} images, got {len(paths)}. Lower --num.")
    if num is not None:
        order = torch.randperm(len(paths), generator=generator(seed, "data"))[:num].sort().values
        paths = [paths[index] for index in order.tolist()]
    images = np.empty((len(paths), *event_shape), dtype=np.uint8)
    for index, path in enumerate(paths):
        images[index] = _read(path, event_shape)
    return torch.from_numpy(images)


def read_image(path: Path, event_shape: tuple[int, ...]) -> Tensor:
    """One image as bytes (C, H, W); for the rest see `read_images`."""
    return torch.from_numpy(_read(path, event_shape).copy())


def _read(path: Path, event_shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    channels, height, width = event_shape
    try:
        with Image.open(path) as picture:
            mode = NEEDED[channels]
            if picture.mode != mode:
                got = MODES.get(picture.mode, f"of mode {picture.mode}")
                raise DataError(
                    f"{path}: must be {MODES[mode]} like the data, but is {got}. Convert the images, or name the data "
                    "set they imitate with --data."
                )
            if picture.size != (width, height):
                raise DataError(
                    f"{path}: must be {width} x {height} pixels like the data, got {picture.width} x {picture.height}."
                )
            return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: must be a readable image, but is not ({reason}). Remove or replace it.") from None
