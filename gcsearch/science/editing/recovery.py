"""Edits that draw what is missing of an image: inpainting, colorization, super-resolution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from gcsearch.science.editing.base import Edit, edits
from gcsearch.science.process import Process
from gcsearch.science.shapes import Images, SquareMatrix

LUMA: Final = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue in the brightness of a colour (ITU-R BT.601)."""

Coefficients = Images
"""Coefficients of images in an orthogonal basis, arranged as the images are."""


class Recovery(Edit, ABC):
    """Draws what is missing of an image: some of its coefficients A y in an orthogonal basis.

    known = A^T [(A y) (1 - Omega)] + a plain filling,   impose(x) = A^T [(A y) (1 - Omega) + (A x) Omega]
    """

    def begin_level(self, process: Process) -> float:
        return process.sigma_max

    @abstractmethod
    def to_coefficients(self, images: Images) -> Coefficients:
        """A x, in the shape of the images."""

    @abstractmethod
    def from_coefficients(self, coefficients: Coefficients) -> Images:
        """A^T c = A^-1 c."""

    @abstractmethod
    def missing(self, images: Images) -> Tensor:
        """Omega: 1 where a coefficient is drawn, 0 where it is known, in a shape that broadcasts over the images."""

    def known(self, reference: Images) -> Images:
        return self.from_coefficients(self.to_coefficients(reference) * (1 - self.missing(reference)))

    def impose(self, estimate: Images, reference: Images) -> Images:
        missing = self.missing(reference)
        theirs, ours = self.to_coefficients(reference), self.to_coefficients(estimate)
        return self.from_coefficients(theirs * (1 - missing) + ours * missing)


class PixelRecovery(Recovery, ABC):
    """Draws some pixels: A is the identity, and the filling the middle grey."""

    def to_coefficients(self, images: Images) -> Coefficients:
        return images

    def from_coefficients(self, coefficients: Coefficients) -> Images:
        return coefficients


@edits.register("inpaint")
@dataclass(frozen=True, kw_only=True)
class Inpaint(PixelRecovery):
    """Draws a rectangle, or the pixels of a mask.

    Attributes:
        box: Top, left, bottom and right edge of the rectangle as fractions of the image, in [0, 1].
        mask: Rows of the image from the top, 1 where a pixel is drawn; empty for the rectangle.
    """

    box: tuple[float, float, float, float] = (0.25, 0.25, 0.75, 0.75)
    mask: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        top, left, bottom, right = self.box
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise ValueError(
                f"box must be [top, left, bottom, right] with 0 <= top < bottom <= 1 and 0 <= left < right <= 1, got "
                f"{list(self.box)}"
            )
        if len({len(row) for row in self.mask}) > 1 or any(pixel not in (0, 1) for row in self.mask for pixel in row):
            raise ValueError("mask must have rows of one length with nothing but 0 and 1")

    def check(self, event_shape: tuple[int, ...]) -> None:
        super().check(event_shape)
        if self.mask and (len(self.mask), len(self.mask[0])) != event_shape[1:]:
            raise ValueError(
                f"mask must be {event_shape[1]} x {event_shape[2]} pixels like the images, got {len(self.mask)} x "
                f"{len(self.mask[0])}"
            )

    def missing(self, images: Images) -> Tensor:
        if self.mask:
            return torch.tensor(self.mask, dtype=images.dtype, device=images.device)[None, None]
        height, width = images.shape[2:]
        top, left, bottom, right = self.box
        mask = torch.zeros(1, 1, height, width, dtype=images.dtype, device=images.device)
        mask[..., round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1
        return mask


@edits.register("colorize")
@dataclass(frozen=True, kw_only=True)
class Colorize(Recovery):
    """Draws the colours: of the three coefficients of a pixel, the brightness is known.

    The filling is the grey of that brightness.
    """

    def check(self, event_shape: tuple[int, ...]) -> None:
        super().check(event_shape)
        if event_shape[0] != 3:
            raise ValueError(f"must be applied to images of 3 channels (RGB), got {event_shape[0]}")

    def to_coefficients(self, images: Images) -> Coefficients:
        return torch.einsum("bchw,ck->bkhw", images, orthogonal_basis(LUMA).to(images))

    def from_coefficients(self, coefficients: Coefficients) -> Images:
        return torch.einsum("bkhw,ck->bchw", coefficients, orthogonal_basis(LUMA).to(coefficients))

    def missing(self, images: Images) -> Tensor:
        return torch.tensor([0.0, 1.0, 1.0], dtype=images.dtype, device=images.device)[None, :, None, None]

    def known(self, reference: Images) -> Images:
        brightness = torch.einsum("bchw,c->bhw", reference, torch.tensor(LUMA).to(reference)) / sum(LUMA)
        return brightness[:, None].expand_as(reference).clone()


@edits.register("superres")
@dataclass(frozen=True, kw_only=True)
class SuperResolution(Recovery):
    """Draws the details: of the coefficients of a square of pixels, the mean is known.

    Attributes:
        factor: Side of the squares in pixels; divides height and width.
    """

    factor: int = 2

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"factor must be at least 2, got {self.factor}")

    def check(self, event_shape: tuple[int, ...]) -> None:
        super().check(event_shape)
        if event_shape[1] % self.factor or event_shape[2] % self.factor:
            raise ValueError(
                f"factor must divide height {event_shape[1]} and width {event_shape[2]}, got {self.factor}"
            )

    def _squares(self, images: Images) -> Tensor:
        batch, channels, height, width = images.shape
        side = self.factor
        rows = images.reshape(batch, channels, height // side, side, width // side, side)
        return rows.transpose(3, 4).reshape(batch, channels, height // side, width // side, side * side)

    def _images(self, squares: Tensor) -> Images:
        batch, channels, rows, columns, _ = squares.shape
        side = self.factor
        tiles = squares.reshape(batch, channels, rows, columns, side, side).transpose(3, 4)
        return tiles.reshape(batch, channels, rows * side, columns * side)

    @property
    def _basis(self) -> Tensor:
        return orthogonal_basis((1.0,) * self.factor**2)

    def to_coefficients(self, images: Images) -> Coefficients:
        return self._images(self._squares(images) @ self._basis.to(images))

    def from_coefficients(self, coefficients: Coefficients) -> Images:
        return self._images(self._squares(coefficients) @ self._basis.to(coefficients).T)

    def missing(self, images: Images) -> Tensor:
        mask = torch.ones(1, 1, *images.shape[2:], dtype=images.dtype, device=images.device)
        mask[..., :: self.factor, :: self.factor] = 0  # the first coefficient of each square
        return mask


@lru_cache(maxsize=16)
def orthogonal_basis(direction: tuple[float, ...]) -> SquareMatrix:
    """Orthogonal matrix Q whose first column points in a given direction; Q^T Q = 1 to float32 rounding."""
    size, length = len(direction), math.sqrt(sum(value**2 for value in direction))
    begin = torch.eye(size, dtype=torch.float64)
    begin[:, 0] = torch.tensor(direction, dtype=torch.float64) / length
    basis, _ = torch.linalg.qr(begin)
    sign = torch.sign(basis[0, 0] * direction[0])
    matrix: Tensor = (basis * sign).float()
    return matrix
