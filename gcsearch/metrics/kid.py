"""Kernel distance: unbiased at any number of samples, noisier than FID."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gcsearch.metrics.base import SampleMetric, metrics
from gcsearch.metrics.kernel import mean_between, mean_map, mean_within, resampled_means
from gcsearch.metrics.reference import ReferenceFeatures


@metrics.register("kid")
@dataclass(frozen=True, kw_only=True)
class KID(SampleMetric):
    """Squared maximum mean discrepancy with the kernel k(x, y) = (x.y / d + 1)^3, unbiased, over all samples.

    KID = mean of k over pairs of different samples + the same over the data - 2 mean of k over samples and data

    Papers report the mean over 100 random subsets of 1,000. Both are unbiased estimates of the same quantity, so they
    can be compared; this one uses every pair, adds no noise from a choice of subsets, and depends on no seed. It may be
    slightly negative near 0.

    Source: Binkowski et al. 2018 (arXiv:1801.01401), with all examples as the one subset.
    """

    lower_is_better: ClassVar[bool] = True

    def compute(self, generated: Tensor, reference: ReferenceFeatures) -> dict[str, float]:
        self.check_count(generated)
        if not generated.isfinite().all():
            return self.undefined()
        own, data = mean_map(generated), reference.kernel_map
        between = mean_between(generated, reference.features) if own is None or data is None else float(own @ data)
        return {"kid": mean_within(generated, own) + reference.kernel_mean - 2 * between}

    def resampled(self, generated: Tensor, reference: ReferenceFeatures, counts: Tensor) -> dict[str, Tensor]:
        within, between = resampled_means(generated, reference.features, counts)
        return {"kid": within + reference.kernel_mean - 2 * between}
