"""Feature extractors: the space in which generated examples and data are compared.

To add one: a frozen dataclass below, or in a new file, with `@extractors.register("name")`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from gcsearch.metrics.classifiers import load_classifier, weights_hash
from gcsearch.registry import Component, Registry

CHUNK: Final = 128
"""Images at once in a small classifier: more are no faster, and 256 digits need more memory than a step of theirs."""


class Extractor(Component, ABC):
    """A map from examples to features.

    Attributes:
        has_classes: Whether the features come from a classifier, so that `classify` works.
    """

    has_classes: ClassVar[bool] = False

    @property
    @abstractmethod
    def identity(self) -> str:
        """Name and a short hash of the weights: the extractor's part of a score's identity."""

    @abstractmethod
    def accepts(self, event_shape: tuple[int, ...]) -> None:
        """Nothing, if examples of this shape can be mapped.

        Raises:
            ValueError: They cannot; the message says which can.
        """

    def prepare(self) -> None:
        """Nothing, once all that the extractor needs is on this machine; may download it.

        Raises:
            WeightsError: It cannot be had; the message says what to put where.
        """

    @abstractmethod
    def load(self, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
        """Function from a batch on `device` (uint8 images NCHW, or float points) to float32 features (B, d).

        A feature depends on its own example only, not on the batch it comes in.
        """

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, classes) of features (N, d) on the CPU, from the classifier's last layer.

        Only where `has_classes`: features are kept, and logits follow from them without a second pass.
        """
        raise NotImplementedError(f"extractor '{self.name}' has no classes")


extractors: Registry[Extractor] = Registry("extractor")


class ClassifierExtractor(Extractor, ABC):
    """Embedding (64 numbers) of a small grey-image classifier whose weights are part of the package."""

    has_classes = True

    @property
    @abstractmethod
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the images that it takes."""

    @property
    def identity(self) -> str:
        return f"{self.name}@{weights_hash(self.name)}"

    def accepts(self, event_shape: tuple[int, ...]) -> None:
        if tuple(event_shape) not in self.shapes:
            shapes = " or ".join(str(list(shape)) for shape in self.shapes)
            raise ValueError(
                f"extractor '{self.name}': examples must be grey images of shape {shapes}, got {list(event_shape)}. "
                "Set evaluation.extractor to 'auto' or to one made for this data"
            )

    def load(self, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
        classifier = load_classifier(self.name, device)
        return lambda images: torch.cat([classifier.embed(chunk).float() for chunk in torch.split(images, CHUNK)])

    def classify(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            return load_classifier(self.name).classify(features)


@extractors.register("digits")
@dataclass(frozen=True, kw_only=True)
class DigitsExtractor(ClassifierExtractor):
    """Embedding of a small classifier of the 8 x 8 digits."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((1, 8, 8),)


@extractors.register("fashion_mnist")
@dataclass(frozen=True, kw_only=True)
class FashionMNISTExtractor(ClassifierExtractor):
    """Embedding of a small classifier of Fashion-MNIST, at 28 x 28 or with the black border that makes it 32 x 32."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((1, 28, 28), (1, 32, 32))


@extractors.register("coordinates")
@dataclass(frozen=True, kw_only=True)
class CoordinatesExtractor(Extractor):
    """The numbers of a point themselves, for toys in few dimensions."""

    @property
    def identity(self) -> str:
        return "coordinates"

    def accepts(self, event_shape: tuple[int, ...]) -> None:
        if len(event_shape) != 1:
            raise ValueError(
                f"extractor 'coordinates': examples must be points of shape [d], got {list(event_shape)}. "
                "Set evaluation.extractor to 'auto' or to one made for images"
            )

    def load(self, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
        return lambda points: points.float()
