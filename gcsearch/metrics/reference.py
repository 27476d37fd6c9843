"""Features of the data: computed once per identity, kept on disk, shared by all trials."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gcsearch.errors import DataError
from gcsearch.files import replacing
from gcsearch.metrics.features import Extractor
from gcsearch.metrics.kernel import mean_map, mean_within

logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 2
"""Part of the cache's key: raise it when the meaning of a stored tensor changes."""

STORED: Final = ("features", "mean", "covariance", "kernel_mean")
"""Tensors of a cache file."""

BATCH_SIZE: Final = 500

FIT_BLOCK: Final = 1024
"""Examples at once in `gaussian_fit`: 1,024 x 2,048 numbers in float64 are 17 MB; those of 50,000 would be 0.8 GB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceFeatures:
    """Features of the data and their Gaussian fit, on the CPU.

    Attributes:
        features: float32, (N, d).
        mean: float64, (d,).
        covariance: float64, (d, d), with N - 1 in the denominator.
        examples_sha256: Hash of the examples they were computed from.
        extractor: Where the features come from; None for features from elsewhere, which nothing can classify.
        known_kernel_mean: `kernel_mean`, if it was computed before.
    """

    features: Tensor
    mean: Tensor
    covariance: Tensor
    examples_sha256: str
    extractor: Extractor | None = None
    known_kernel_mean: float | None = None

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.features)

    @cached_property
    def root(self) -> Tensor:
        """Symmetric root R of the covariance, R R = covariance; computed at first use."""
        return symmetric_root(self.covariance)

    @cached_property
    def kernel_map(self) -> Tensor | None:
        """Mean of the explicit map of KID's kernel, for few features; computed at first use."""
        return mean_map(self.features)

    @cached_property
    def kernel_mean(self) -> float:
        """Mean of KID's kernel over pairs of different examples."""
        known = self.known_kernel_mean
        return mean_within(self.features, self.kernel_map) if known is None else known

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, classes) of features (N, d) of the same extractor."""
        if self.extractor is None:
            raise ValueError("features of unknown origin cannot be classified")
        return self.extractor.classify(features)

    @classmethod
    def of(cls, features: Tensor, examples_sha256: str, extractor: Extractor | None = None) -> ReferenceFeatures:
        """Gaussian fit of features (N, d)."""
        mean, covariance = gaussian_fit(features)
        return cls(
            features=features.float(),
            mean=mean,
            covariance=covariance,
            examples_sha256=examples_sha256,
            extractor=extractor,
        )


def gaussian_fit(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of features (N, d), in float64 and with N - 1 in the denominator."""
    count, size = features.shape
    blocks = torch.split(features, FIT_BLOCK)
    mean = torch.stack([block.sum(dim=0, dtype=torch.float64) for block in blocks]).sum(dim=0) / count
    products = torch.zeros(size, size, dtype=torch.float64)
    for block in blocks:
        centred = block.double() - mean
        products.addmm_(centred.T, centred)
    return mean, products / (count - 1)


def symmetric_root(matrix: Tensor) -> Tensor:
    """Symmetric positive semidefinite root of a covariance; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def reference_features(
    extractor: Extractor,
    examples: Tensor,
    examples_sha256: str,
    device: torch.device | str = "cpu",
    cache_dir: Path | None = None,
    extract_all: Callable[[Tensor], Tensor] | None = None,
) -> ReferenceFeatures:
    """Features of `examples`, from the cache if the same were computed before.

    Args:
        extractor: Feature extractor.
        examples: uint8 images (N, C, H, W), or float points (N, *event).
        examples_sha256: Hash of `examples`, which names them in the cache.
        device: Where the extractor runs; the result lies on the CPU.
        cache_dir: Directory of the cache, e.g. `gcsearch.files.default_cache_dir()`; None switches it off.
        extract_all: Replaces the extraction in this process, e.g. by one in several.

    Raises:
        ValueError: The extractor does not accept such examples.
        DataError: Fewer than four examples, features that are not finite, or no weights for the extractor.
    """
    extractor.accepts(tuple(examples.shape[1:]))
    if len(examples) < 4:
        raise DataError(f"reference: there must be at least 4 examples, got {len(examples)}.")
    identity: dict[str, str | int] = {
        "extractor": extractor.identity,
        "examples": examples_sha256,
        "count": len(examples),
        "format": FORMAT_VERSION,
    }
    path = None if cache_dir is None else cache_dir / f"{_digest(identity)}.safetensors"
    cached = None if path is None else _load(path, extractor)
    if cached is not None:
        return cached
    features = extract(extractor.load(device), examples, device) if extract_all is None else extract_all(examples)
    reference = ReferenceFeatures.of(features, examples_sha256, extractor)
    if not reference.features.isfinite().all():
        raise DataError(
            f"reference: features must be finite, but extractor '{extractor.name}' gave NaN or infinity. "
            "Check the data set for damaged examples."
        )
    reference = replace(reference, known_kernel_mean=reference.kernel_mean)
    if path is not None:
        _save(path, reference)
    return reference


def extract(
    function: Callable[[Tensor], Tensor],
    examples: Tensor,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Features (N, d) on the CPU of examples (N, *event), in batches; `function` is a loaded extractor."""
    with torch.no_grad():
        batches = torch.split(examples, batch_size)
        return torch.cat([function(batch.to(device)).cpu() for batch in batches])


def _digest(identity: dict[str, str | int]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Hash of the numbers: safetensors checks a file's header and length, not its content."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().view(np.uint8).data)
    return digest.hexdigest()


def _load(path: Path, extractor: Extractor) -> ReferenceFeatures | None:
    """Reference from a cache file; None if there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in STORED}
        if metadata.get("sha256") != _checksum(tensors):
            raise ValueError("its content does not match its checksum")
        return ReferenceFeatures(
            features=tensors["features"],
            mean=tensors["mean"],
            covariance=tensors["covariance"],
            examples_sha256=metadata["examples_sha256"],
            extractor=extractor,
            known_kernel_mean=float(tensors["kernel_mean"]),
        )
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        logger.warning("Reference features in %s are damaged (%s); they are computed again.", path, error)
        return None


def _save(path: Path, reference: ReferenceFeatures) -> None:
    tensors = {
        "features": reference.features.contiguous(),
        "mean": reference.mean.contiguous(),
        "covariance": reference.covariance.contiguous(),
        "kernel_mean": torch.tensor([reference.kernel_mean], dtype=torch.float64),
    }
    metadata = {"sha256": _checksum(tensors), "examples_sha256": reference.examples_sha256}
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(save(tensors, metadata))  # its `save_file` shuts other users out of a shared cache
    except OSError as error:  # a full or read-only disk must not stop a run
        logger.warning("Reference features could not be cached in %s: %s", path, error)
