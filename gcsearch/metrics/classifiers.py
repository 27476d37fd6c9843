"""Small classifiers of ours whose embeddings are feature spaces: of the digits, and of Fashion-MNIST.

`benchmarks/train_digits_extractor.py` and `benchmarks/train_fashion_mnist_extractor.py` train them; the weights are
part of the package. The same networks are available to
`torch_fidelity.calculate_metrics(feature_extractor=register_with_torch_fidelity("digits"), ...)`.
"""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from gcsearch.science.images import to_unit_range

WEIGHTS_FOLDER: Final = Path(__file__).parent / "weights"


class Classifier(nn.Module):
    """Convolutions, an embedding of 64 numbers, a linear head for ten classes.

    Args:
        body: From images in [-1, 1] to the embedding, before its activation.
    """

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(64, 10)

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, 64) of uint8 images (B, 1, H, W), before the activation: closer to Gaussian than after it."""
        pixels = to_unit_range(images).to(self.head.weight.dtype)
        features: Tensor = self.body(pixels)
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, 10) from features."""
        logits: Tensor = self.head(features.relu())
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.embed(images))


class DigitsClassifier(Classifier):
    """Two convolutions, for images of 8 x 8."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, padding=1),
                nn.MaxPool2d(2),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(32 * 4 * 4, 64),
            )
        )


class FashionClassifier(Classifier):
    """Three convolutions with batch normalisation, for images of 32 x 32; 28 x 28 get a black border of two pixels."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, channels in pairwise((1, 24, 48, 96)):
            layers += [
                nn.Conv2d(before, channels, 3, padding=1, bias=False),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        super().__init__(nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 4 * 4, 64)))

    def embed(self, images: Tensor) -> Tensor:
        return super().embed(functional.pad(images, (2, 2, 2, 2)) if images.shape[-1] == 28 else images)


CLASSIFIERS: Final[dict[str, type[DigitsClassifier | FashionClassifier]]] = {
    "digits": DigitsClassifier,
    "fashion_mnist": FashionClassifier,
}
"""By the name of the extractor and of the file of weights."""


def weights_path(name: str) -> Path:
    """Shipped weights of the classifier `name`."""
    return WEIGHTS_FOLDER / f"{name}.safetensors"


@cache
def weights_hash(name: str) -> str:
    """First eight hexadecimal digits of the sha256 of the weights.

    Of the numbers rather than the file: the order of a file's metadata changes from one writing to the next.
    """
    digest = hashlib.sha256()
    for key, values in sorted(load_file(weights_path(name)).items()):
        digest.update(key.encode() + values.numpy().tobytes())
    return digest.hexdigest()[:8]


def load_classifier(name: str, device: torch.device | str = "cpu") -> Classifier:
    """The trained classifier, ready for inference.

    In float64 on NVIDIA GPUs, which round float32 convolutions to TF32 (three digits): a score must not depend on the
    device.
    """
    device = torch.device(device)
    # On the meta device nothing is initialised, so the global generator is left alone.
    with torch.device("meta"):
        network = CLASSIFIERS[name]()
    network.load_state_dict(load_file(weights_path(name)), assign=True)
    dtype = torch.float64 if device.type == "cuda" else torch.float32
    # channels_last takes half of the time on a CPU and changes features by 1e-6.
    network = network.to(device, dtype).to(memory_format=torch.channels_last)
    return network.eval().requires_grad_(False)


def register_with_torch_fidelity(classifier: str) -> str:
    """Make a classifier known to torch-fidelity.

    Returns:
        The name to pass as its `feature_extractor`.
    """
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class ClassifierFeatures(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity has no types
        """Layers `embedding` (FID, KID, precision and recall) and `logits` (inception score)."""

        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.classifier = load_classifier(classifier)

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

    name = f"gcsearch-{classifier}"
    # A second registration under one name is an error there.
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(name, ClassifierFeatures)
    return name
