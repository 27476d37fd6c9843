"""CelebA at 64 x 64 from its aligned and cropped images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gcsearch.data.base import datasets
from gcsearch.data.conversion import Source
from gcsearch.data.decoding import Decoder
from gcsearch.data.download import md5_of
from gcsearch.data.image_files import open_collection
from gcsearch.data.image_set import ImageSet, decoded

ZIP_MD5: Final = "00d2c5bc6d35e252742224ab0c1e8fcb"
SIZE: Final = (178, 218)


@datasets.register("celeba64")
@dataclass(frozen=True, kw_only=True)
class CelebA64(ImageSet):
    """202,599 faces, 64 x 64, from the aligned images of 178 x 218.

    Attributes:
        crop: Side of the central square to cut out first. None keeps the whole width and shrinks it to 64 (Lanczos),
            as the GC paper does; 140 is what most other papers do, and is not comparable.

    Source: Liu et al. 2015 (arXiv:1411.7766), all parts.
    """

    crop: int | None = None
    resolution = 64
    wanted = "img_align_celeba.zip, or the folder that it unpacks to"
    licence = "non-commercial research"
    homepage = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    num_published = 202_599

    def __post_init__(self) -> None:
        if self.crop is not None and not 64 <= self.crop <= min(SIZE):
            raise ValueError(f"crop must be null or in [64, {min(SIZE)}], got {self.crop}")

    @property
    def file_stem(self) -> str:
        return "celeba64" if self.crop is None else f"celeba64-crop{self.crop}"

    def open_source(self, path: Path, *, trust: bool) -> Source:
        images = open_collection(path)
        verification = self.published(len(images.names), trust=trust)
        if path.is_file() and md5_of(path) == ZIP_MD5:
            verification = "md5 as published"
        return decoded(images, Decoder(resolution=64, filter="lanczos", crop=self.crop, size=SIZE), verification)
