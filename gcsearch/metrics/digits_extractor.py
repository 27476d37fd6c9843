"""The small classifier whose embedding is the feature space of the digits.

`benchmarks/train_digits_extractor.py` trains it; the weights are part of the package. The same network is available to
`torch_fidelity.calculate_metrics(feature_extractor=register_with_torch_fidelity(), ...)`.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gcsearch.science.images import to_unit_range

WEIGHTS: Final = Path(__file__).parent / "weights" / "digits.safetensors"
TORCH_FIDELITY_NAME: Final = "gcsearch-digits"


class DigitsClassifier(nn.Module):
    """Two convolutions, an embedding of 64 numbers, a linear head for the ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
        )
        self.head = nn.Linear(64, 10)

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, 64) of uint8 images (B, 1, 8, 8), before the activation: closer to Gaussian than after it."""
        pixels = to_unit_range(images).to(self.head.weight.dtype)
        features: Tensor = self.body(pixels)
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, 10) from features."""
        logits: Tensor = self.head(features.relu())
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.embed(images))


@cache
def weights_hash() -> str:
    """First eight hexadecimal digits of the sha256 of the weights.

    Of the numbers rather than the file: the order of a file's metadata changes from one writing to the next.
    """
    digest = hashlib.sha256()
    for name, values in sorted(load_file(WEIGHTS).items()):
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()[:8]


def load_classifier(device: torch.device | str = "cpu") -> DigitsClassifier:
    """The trained classifier, ready for inference.

    In float64 on NVIDIA GPUs, which round float32 convolutions to TF32 (three digits): a score must not depend on the
    device.
    """
    device = torch.device(device)
    # On the meta device nothing is initialised, so the global generator is left alone.
    with torch.device("meta"):
        network = DigitsClassifier()
    network.load_state_dict(load_file(WEIGHTS), assign=True)
    dtype = torch.float64 if device.type == "cuda" else torch.float32
    return network.to(device, dtype).eval().requires_grad_(False)


def register_with_torch_fidelity() -> str:
    """Make the classifier known to torch-fidelity.

    Returns:
        The name to pass as its `feature_extractor`.
    """
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class DigitsFeatures(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity has no types
        """Layers `embedding` (FID, KID, precision and recall) and `logits` (inception score)."""

        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.classifier = load_classifier()

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "embedding", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "embedding"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            embedding = self.classifier.embed(images)
            layers = {"embedding": embedding, "logits": self.classifier.classify(embedding)}
            return tuple(layers[layer].float() for layer in self.features_list)

    # A second registration under one name is an error there.
    if TORCH_FIDELITY_NAME not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(TORCH_FIDELITY_NAME, DigitsFeatures)
    return TORCH_FIDELITY_NAME
