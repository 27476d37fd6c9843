"""Grids of samples as PNG files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from gcsearch.files import replacing

GREY: Final = 128
"""Level of the separators and of places without an image."""

VISIBLE_SIZE: Final = 64
"""Images smaller than this many pixels are enlarged by default."""


def grid_name(images: int) -> str:
    """Name of the file with the samples that a network draws after some images."""
    return f"{images:09d}.png"


def sample_grid(images: Tensor, columns: int = 8, scale: int | None = None) -> npt.NDArray[np.uint8]:
    """Images side by side, row by row, with a separator of one grey pixel between them.

    Args:
        images: uint8, (N, C, H, W), with one (grey) or three (RGB) channels.
        columns: Images per row; fewer images make a single, shorter row.
        scale: Side of the square that a pixel becomes; by default, what makes small images 64 pixels high.

    Returns:
        Pixels (height, width) for grey or (height, width, 3) for RGB images.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8 of shape (N, 1, H, W) or (N, 3, H, W), got {images.dtype} of {list(images.shape)}"
        )
    scale = max(1, VISIBLE_SIZE // images.shape[2]) if scale is None else scale
    if columns < 1 or scale < 1:
        raise ValueError(f"columns and scale must be at least 1, got {columns} and {scale}")
    tiles = images.cpu().permute(0, 2, 3, 1).numpy().repeat(scale, axis=1).repeat(scale, axis=2)
    num, height, width, channels = tiles.shape
    columns = min(columns, num)
    rows = math.ceil(num / columns)
    # Every tile brings its own separator below and to the right; the last ones are cut off.
    cells = np.full((rows * columns, height + 1, width + 1, channels), GREY, dtype=np.uint8)
    cells[:num, :height, :width] = tiles
    table = cells.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    grid = table.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]
    return grid[..., 0] if channels == 1 else grid


def write_png(path: Path, images: Tensor, columns: int = 8, scale: int | None = None) -> None:
    """Write `sample_grid` of the images; a reader never sees half a file."""
    picture = Image.fromarray(np.ascontiguousarray(sample_grid(images, columns, scale)))
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def read_tiles(path: Path, columns: int = 8) -> npt.NDArray[np.uint8]:
    """The square images of a file that `write_png` wrote, one by one, as large as they are shown there.

    Args:
        path: A grid of at least `columns` images.
        columns: Images per row.

    Returns:
        (N, side, side) for grey or (N, side, side, 3) for RGB images; the last row's empty places are grey images.
    """
    with Image.open(path) as picture:
        grid = np.asarray(picture)
    side = (grid.shape[1] + 1) // columns - 1
    rows = (grid.shape[0] + 1) // (side + 1)
    tiles = [
        grid[row * (side + 1) :, column * (side + 1) :][:side, :side]
        for row in range(rows)
        for column in range(columns)
    ]
    return np.stack(tiles)
