"""Precision and recall: how many samples look like data, and how much of the data the samples reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor

from gcsearch.metrics.base import SampleMetric, metrics
from gcsearch.metrics.reference import ReferenceFeatures

BLOCK: Final = 2000
"""Rows of the matrix of distances at once: 2,000 x 50,000 values are 0.8 GB."""


@metrics.register("precision_recall")
@dataclass(frozen=True, kw_only=True)
class PrecisionRecall(SampleMetric):
    """Share of the samples inside the estimated manifold of the data (precision), and the other way round (recall).

    The manifold of a set is the union of balls around its examples, each reaching to the k-th nearest other example.
    Both fall with fewer samples; compare at equal counts only. They have no bootstrap interval: copies of an example
    would shrink the balls to nothing.

    Attributes:
        neighbours: k. The paper uses 3 with 50,000 examples on either side.

    Source: Kynkaanniemi et al. 2019 (arXiv:1904.06991), computed by torch-fidelity. The paper uses VGG features; here
    they are the extractor's.
    """

    lower_is_better: ClassVar[bool] = False

    neighbours: int = 3

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}")

    @property
    def keys(self) -> tuple[str, ...]:
        return "precision", "recall"

    @property
    def min_samples(self) -> int:
        return max(4, self.neighbours + 1)

    def compute(self, generated: Tensor, reference: ReferenceFeatures) -> dict[str, float]:
        from torch_fidelity.metric_prc import calculate_precision_recall_part

        self.check_count(generated)
        if not generated.isfinite().all():
            return self.undefined()
        # In float64: distances come from products, and rounding would decide examples on the edge of a ball.
        precision, recall = calculate_precision_recall_part(
            generated.double(), reference.features.double(), self.neighbours, BLOCK
        )
        return {"precision": precision, "recall": recall}
