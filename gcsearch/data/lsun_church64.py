"""LSUN churches at 64 x 64."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gcsearch.data.base import datasets
from gcsearch.data.conversion import Source
from gcsearch.data.decoding import Decoder
from gcsearch.data.image_files import open_collection, open_lmdb
from gcsearch.data.image_set import ImageSet, decoded


@datasets.register("lsun_church64")
@dataclass(frozen=True, kw_only=True)
class LSUNChurch64(ImageSet):
    """126,227 photographs of churches, 64 x 64: shorter side to 64 (Lanczos), centre crop.

    The GC paper's preparation of this set was not released; this is the one it uses for CelebA.

    Source: Yu et al. 2015 (arXiv:1506.03365), church_outdoor, training part.
    """

    resolution = 64
    wanted = "the folder church_outdoor_train_lmdb, or a folder of exported images"
    licence = "none stated; research use"
    homepage = "https://www.yf.io/p/lsun"
    num_published = 126_227

    @property
    def file_stem(self) -> str:
        return "lsun_church64"

    def open_source(self, path: Path, *, trust: bool) -> Source:
        images = open_lmdb(path) if (path / "data.mdb").is_file() else open_collection(path)
        verification = self.published(len(images.names), trust=trust)
        return decoded(images, Decoder(resolution=64, filter="lanczos"), verification)
