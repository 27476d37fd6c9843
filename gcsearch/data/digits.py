"""The embedded default: 1,797 real handwritten digits of 8 x 8 pixels that scikit-learn ships."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gcsearch.data.base import Dataset, Examples, datasets
from gcsearch.science.oracles import FiniteData, IdealFlow
from gcsearch.science.process import Process


@datasets.register("digits")
@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """Handwritten digits, grey levels 0..16 scaled to bytes.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI), test part, from scikit-learn.
    """

    default_extractor = "digits"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    def load(self) -> Examples:
        images, _ = load_labelled()
        return Examples(images)

    def ideal_flow(self, process: Process) -> IdealFlow:
        """The flow of the training set itself: every state comes from one of the 1,797 images."""
        return FiniteData(process=process, examples=self.load().scaled())


def load_labelled() -> tuple[torch.Tensor, torch.Tensor]:
    """Images as bytes (1797, 1, 8, 8) and their digits (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return torch.from_numpy(grey)[:, None], torch.from_numpy(bunch.target.astype(np.int64))
