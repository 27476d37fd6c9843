"""Feature extractors: the space in which generated examples and data are compared.

To add one: a frozen dataclass below, or in a new file, with `@extractors.register("name")`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gcsearch.metrics.digits_extractor import load_classifier, weights_hash
from gcsearch.registry import Component, Registry


class Extractor(Component, ABC):
    """A map from examples to features."""

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

    @abstractmethod
    def load(self, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
        """Function from a batch on `device` (uint8 images NCHW, or float points) to float32 features (B, d).

        A feature depends on its own example only, not on the batch it comes in.
        """


extractors: Registry[Extractor] = Registry("extractor")


@extractors.register("digits")
@dataclass(frozen=True, kw_only=True)
class DigitsExtractor(Extractor):
    """Embedding (64 numbers) of a small classifier of the 8 x 8 digits; the weights are part of the package."""

    @property
    def identity(self) -> str:
        return f"digits@{weights_hash()}"

    def accepts(self, event_shape: tuple[int, ...]) -> None:
        if tuple(event_shape) != (1, 8, 8):
            raise ValueError(
                f"extractor 'digits': examples must be grey images of shape [1, 8, 8], got {list(event_shape)}. "
                "Set evaluation.extractor to 'auto' or to one made for this data"
            )

    def load(self, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
        classifier = load_classifier(device)
        return lambda images: classifier.embed(images).float()


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
