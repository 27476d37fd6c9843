"""Inception score: how sure the classifier is of each sample, and how evenly the samples cover its classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gcsearch.metrics.base import SampleMetric, metrics
from gcsearch.metrics.reference import ReferenceFeatures

SHUFFLE_SEED = 2020
"""torch-fidelity's default, so that both give the same number. A folder sorted by class needs the shuffling."""


@metrics.register("is")
@dataclass(frozen=True, kw_only=True)
class InceptionScore(SampleMetric):
    """Inception score, mean over splits of the samples; the data play no part.

    IS = exp(mean over x of KL(p(y | x) || mean over x of p(y | x)))

    Between 1 and the number of classes: of Inception's 1,008, or of the ten of a small classifier, whose scores can
    only be compared with each other.

    Attributes:
        splits: Parts of the samples whose scores are averaged; papers use 10.

    Source: Salimans et al. 2016 (arXiv:1606.03498), computed by torch-fidelity.
    """

    lower_is_better: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = True

    splits: int = 10

    def __post_init__(self) -> None:
        if self.splits < 1:
            raise ValueError(f"splits must be at least 1, got {self.splits}")

    @property
    def min_samples(self) -> int:
        return max(4, self.splits)

    def compute(self, generated: Tensor, reference: ReferenceFeatures) -> dict[str, float]:
        from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

        self.check_count(generated)
        logits = reference.classify(generated)
        if not logits.isfinite().all():
            return self.undefined()
        values = isc_features_to_metric(logits, splits=self.splits, shuffle=True, rng_seed=SHUFFLE_SEED)
        return {"is": float(values[KEY_METRIC_ISC_MEAN])}

    def resampled(self, generated: Tensor, reference: ReferenceFeatures, counts: Tensor) -> dict[str, Tensor]:
        logits = reference.classify(generated).double()
        probabilities = logits.softmax(dim=1)
        # KL against the mean is the difference of two entropies, which needs no pass per resample.
        negative_entropies = (probabilities * logits.log_softmax(dim=1)).sum(dim=1)
        num = len(logits)
        order = torch.from_numpy(np.random.RandomState(SHUFFLE_SEED).permutation(num))
        scores = []
        for split in range(self.splits):
            chosen = order[split * num // self.splits : (split + 1) * num // self.splits]
            weights = counts[:, chosen]
            weights = weights / weights.sum(dim=1, keepdim=True)
            marginal = weights @ probabilities[chosen]
            scores.append((weights @ negative_entropies[chosen] - torch.xlogy(marginal, marginal).sum(dim=1)).exp())
        return {"is": torch.stack(scores).mean(dim=0)}
