"""Distances between two network outputs, one number per example.

To add one: a frozen dataclass below with `@distances.register("name")`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from gcsearch.registry import Component, Registry
from gcsearch.science.perceptual import load_weights, perceptual_distance, weight_files
from gcsearch.science.shapes import Batch, PerExample


class Distance(Component, ABC):
    """A distance D(a, b) >= 0 with D(a, a) = 0."""

    @abstractmethod
    def __call__(self, first: Batch, second: Batch) -> PerExample:
        """Distance of each pair of examples."""

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Raise ValueError if the distance cannot take examples of this shape."""

    def prepare(self) -> None:
        """Fetch what the distance needs beyond its fields; called before a training or study begins.

        Raises:
            WeightsError: Published weights cannot be had.
        """


distances: Registry[Distance] = Registry("distance")


@distances.register("pseudo_huber")
@dataclass(frozen=True, kw_only=True)
class PseudoHuber(Distance):
    """Pseudo-Huber distance of the whole example.

    D(a, b) = sqrt(||a - b||^2 + C^2) - C, C = c sqrt(d)

    Quadratic for differences far below C, linear far above. Several public reproductions apply it per pixel, which is
    another loss.

    Attributes:
        c: Coefficient c > 0 of sqrt(d), where d is the number of scalars in an example.

    Source: iCT section 3.3; GC v1 Appendix B (c = 0.00054).
    """

    c: float = 0.00054

    def __post_init__(self) -> None:
        if not self.c > 0:
            raise ValueError(f"c must be > 0, got {self.c}")

    def __call__(self, first: Batch, second: Batch) -> PerExample:
        squares = (first - second).flatten(1).square().sum(1)
        offset = self.c * first[0].numel() ** 0.5
        # The formula, multiplied and divided by its conjugate: exactly 0 at a = b, accurate for small differences.
        distance: PerExample = squares / ((squares + offset**2).sqrt() + offset)
        return distance


@distances.register("pseudo_huber_elementwise")
@dataclass(frozen=True, kw_only=True)
class ElementwisePseudoHuber(Distance):
    """Pseudo-Huber distance of each scalar, summed over the example.

    D(a, b) = sum over j of (sqrt((a_j - b_j)^2 + C^2) - C), C = c sqrt(d)

    Another loss than `PseudoHuber`, which has one square root per example: here every scalar is bounded on its own, and
    a difference that is spread over d scalars stays quadratic sqrt(d) times longer. Several public reproductions of iCT
    use it (some with the mean); it is here for comparison with them, not with the papers.

    Attributes:
        c: Coefficient c > 0 of sqrt(d), where d is the number of scalars in an example.
    """

    c: float = 0.00054

    def __post_init__(self) -> None:
        if not self.c > 0:
            raise ValueError(f"c must be > 0, got {self.c}")

    def __call__(self, first: Batch, second: Batch) -> PerExample:
        squares = (first - second).flatten(1).square()
        offset = self.c * first[0].numel() ** 0.5
        distance: PerExample = (squares / ((squares + offset**2).sqrt() + offset)).sum(1)
        return distance


@distances.register("l2")
@dataclass(frozen=True, kw_only=True)
class SquaredL2(Distance):
    """Squared Euclidean distance ||a - b||^2, summed over the example (GC's Gaussian experiments)."""

    def __call__(self, first: Batch, second: Batch) -> PerExample:
        return (first - second).flatten(1).square().sum(1)


@distances.register("l1")
@dataclass(frozen=True, kw_only=True)
class L1(Distance):
    """Sum of absolute differences ||a - b||_1 over the example (CM)."""

    def __call__(self, first: Batch, second: Batch) -> PerExample:
        return (first - second).flatten(1).abs().sum(1)


@distances.register("lpips")
@dataclass(frozen=True, kw_only=True)
class LPIPS(Distance):
    """Learned perceptual distance of images: weighted squared differences of VGG16's features.

    Images of one channel are repeated to three. Computed in fp32, whatever the training's precision (NVIDIA GPUs round
    convolutions to TF32 unless torch is told otherwise). Costs two forward passes and one backward pass of VGG16 per
    example, far more than a small network on small images, which the cost in forward units does not count. Needs two
    published files of weights: `gcsearch.science.perceptual`.

    Attributes:
        size: Images with a side shorter than this are resized to `size` x `size` pixels first, bilinearly.
        pooling: Pooling inside VGG16. ``average`` is what CM trained with, ``max`` is LPIPS as it was published.

    Source: Zhang et al. 2018 (arXiv:1801.03924). Size and pooling as in CM's published code (`karras_diffusion.py`),
    which also shrinks images of 225 to 255 pixels to 224; here they stay as they are.
    """

    size: int = 224
    pooling: Literal["average", "max"] = "average"

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ValueError(f"size must be at least 16, got {self.size}")

    def check(self, event_shape: tuple[int, ...]) -> None:
        if len(event_shape) != 3 or event_shape[0] not in (1, 3):
            raise ValueError(
                f"distance 'lpips' needs images (channels, height, width) of 1 or 3 channels, the data has shape "
                f"{event_shape}. Use distance.name=pseudo_huber"
            )

    def files(self) -> dict[str, Path]:
        return weight_files()

    def prepare(self) -> None:
        load_weights(torch.device("cpu"))

    def __call__(self, first: Batch, second: Batch) -> PerExample:
        first, second = (self._seen(images) for images in (first, second))
        return perceptual_distance(first, second, load_weights(first.device), self.pooling)

    def _seen(self, images: Tensor) -> Tensor:
        """The images in fp32, and not too small."""
        images = images.float()
        if min(images.shape[2:]) < self.size:
            size = (self.size, self.size)
            images = functional.interpolate(images, size, mode="bilinear", align_corners=False)
        return images
