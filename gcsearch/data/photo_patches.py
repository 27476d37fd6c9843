"""Colour images that need no download: patches of the two photographs that scikit-learn ships."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from gcsearch.data.base import Dataset, Examples, datasets

LARGEST_SCALE: Final = 8.0
"""Side of the largest patch before it is shrunk, in resolutions."""


@datasets.register("photo_patches")
@dataclass(frozen=True, kw_only=True)
class PhotoPatches(Dataset):
    """Random square patches, at random scales, of a temple roof and a flower.

    Real colours, edges and textures, and always there: for trying a colour recipe and for measuring speed. Not a
    benchmark: two scenes make few modes, patches overlap, and five principal components hold 90 % of the
    variance at 16 x 16.

    Attributes:
        resolution: Height and width.
        num_images: Patches, half of them from each photograph.

    Source: china.jpg and flower.jpg (427 x 640, CC BY) of scikit-learn.
    """

    resolution: int = 16
    num_images: int = 4000
    default_extractor = "inception"

    def __post_init__(self) -> None:
        if not 4 <= self.resolution <= 64:
            raise ValueError(f"resolution must be in [4, 64], got {self.resolution}")
        if self.num_images < 2:
            raise ValueError(f"num_images must be at least 2, got {self.num_images}")

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (3, self.resolution, self.resolution)

    def load(self) -> Examples:
        from PIL import Image
        from sklearn.datasets import load_sample_images

        photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
        stream = np.random.default_rng(0)
        patches = []
        for index in range(self.num_images):
            photograph = photographs[index % len(photographs)]
            largest = min(LARGEST_SCALE * self.resolution, *photograph.size)
            # Scales are uniform in their logarithm, as details are in photographs.
            side = round(self.resolution * (largest / self.resolution) ** stream.random())
            left, top = (int(stream.integers(0, length - side + 1)) for length in photograph.size)
            size, box = (self.resolution, self.resolution), (left, top, left + side, top + side)
            patches.append(np.asarray(photograph.resize(size, Image.Resampling.BOX, box)))
        return Examples(torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).contiguous())
