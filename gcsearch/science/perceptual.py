"""The perceptual distance of images (LPIPS): a formula over VGG16, and where its published weights are found.

The files are pinned by sha256: what is computed follows from the recipe alone, not from what lies in a folder.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from gcsearch.errors import WeightsError
from gcsearch.files import supplied
from gcsearch.science.shapes import Images, PerExample

ENVIRONMENT = "GCSEARCH_LPIPS"
"""Environment variable: folder of the weights. Without it they are in torch's download folder."""

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Convolutions of VGG16 by their number in torchvision's state dict; a pooling lies between two blocks."""

EPSILON = 1e-10
"""Added to the length of a feature vector, which may be 0 (the authors' code)."""


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of weights: its published name, where it comes from, and what its content must be."""

    name: str
    url: str
    sha256: str


VGG16 = PublishedFile(
    name="vgg16-397923af.pth",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
"""VGG16 trained on ImageNet, torchvision's IMAGENET1K_V1 (528 MB, of which the convolutions are kept)."""

HEADS = PublishedFile(
    name="vgg.pth",
    url="https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth",
    sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
)
"""One weight per channel of each block, fitted to human judgement: LPIPS version 0.1 for VGG16 (7 KB)."""


def perceptual_distance(first: Images, second: Images, weights: dict[str, Tensor], pooling: str) -> PerExample:
    """LPIPS of pairs of images, in the precision of `weights`, also inside an autocast region.

    D(a, b) = sum over blocks l, mean over positions p, of w_l . (u_l(a)_p - u_l(b)_p)^2

    u_l(x)_p is the vector of features after block l at position p, divided by its length.

    Args:
        first: Images in [-1, 1], at least 16 x 16 pixels, of three channels, or of one, which is repeated.
        second: Images of the same shape.
        weights: From `load_weights`.
        pooling: ``max`` or ``average``, what lies between the blocks.

    Source: Zhang et al. 2018 (arXiv:1801.03924), Eq. 1, with w_l outside the square, as in the authors' code.
    """
    total = torch.zeros(first.shape[0], device=first.device)
    with torch.autocast(first.device.type, enabled=False):
        pairs = zip(_features(first, weights, pooling), _features(second, weights, pooling), strict=True)
        for block, (left, right) in enumerate(pairs):
            head = weights[f"lin{block}.model.1.weight"]
            total = total + functional.conv2d((left - right).square(), head).mean((1, 2, 3))
    return total


def _features(images: Tensor, weights: dict[str, Tensor], pooling: str) -> list[Tensor]:
    """Feature vectors of length 1 after each block, (B, C_l, H_l, W_l)."""
    pool = functional.max_pool2d if pooling == "max" else functional.avg_pool2d
    # ImageNet's mean and standard deviation per colour, for images in [-1, 1]. Makes three channels out of one.
    shift, scale = images.new_tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[:, :, None, None]
    x = (images - shift) / scale
    features = []
    for block, layers in enumerate(BLOCKS):
        x = x if block == 0 else pool(x, 2)
        for layer in layers:
            name = f"features.{layer}"
            x = functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).relu()
        features.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPSILON))
    return features


def weight_files() -> dict[str, Path]:
    """Where the files are, or would be, on this machine, by their published names."""
    named = os.environ.get(ENVIRONMENT)
    folder = Path(named) if named else Path(torch.hub.get_dir()) / "checkpoints"
    return {file.name: folder / file.name for file in (VGG16, HEADS)}


def load_weights(device: torch.device) -> dict[str, Tensor]:
    """Weights of VGG16's convolutions and of the heads, read once per process and device; constants of a compiled step.

    Raises:
        WeightsError: A file is missing and cannot be downloaded, or is not the published one.
    """
    places = {name: supplied(name) or path for name, path in weight_files().items()}
    return _weights(tuple(places.values()), not os.environ.get(ENVIRONMENT), device)


@lru_cache(maxsize=4)
def _weights(places: tuple[Path, ...], may_download: bool, device: torch.device) -> dict[str, Tensor]:
    if device.type != "cpu":
        return {name: value.to(device) for name, value in _weights(places, may_download, torch.device("cpu")).items()}
    _require(places, may_download)
    kept = {f"features.{layer}.{part}" for layers in BLOCKS for layer in layers for part in ("weight", "bias")}
    content, heads = (_read(path, file) for path, file in zip(places, (VGG16, HEADS), strict=True))
    return {name: content[name].detach() for name in kept} | heads


def _require(places: tuple[Path, ...], may_download: bool) -> None:
    """Make sure that both files are there."""
    missing = [(path, file) for path, file in zip(places, (VGG16, HEADS), strict=True) if not path.is_file()]
    if not missing:
        return
    folder = missing[0][0].parent
    urls = " and ".join(file.url for _, file in missing)
    needs = f"{folder}: must hold {' and '.join(file.name for _, file in missing)} for the distance 'lpips'"
    if not may_download:
        raise WeightsError(f"{needs}, got no such file. Put {urls} there; {ENVIRONMENT} names this folder.")
    for path, file in missing:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(file.url, str(path), hash_prefix=file.sha256)
        except (OSError, RuntimeError, HTTPException) as error:
            raise WeightsError(
                f"{needs}, got no such file, and downloading failed: {error}. Get {urls} on a machine with a "
                f"connection and put them there, or into a folder that the environment variable {ENVIRONMENT} names."
            ) from None


def _read(path: Path, file: PublishedFile) -> dict[str, Tensor]:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: must be readable, got: {error.strerror}.") from None
    if digest != file.sha256:
        raise WeightsError(
            f"{path}: must be the published file, whose sha256 is {file.sha256}, got {digest}. Get it again from "
            f"{file.url}."
        )
    content: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return content
