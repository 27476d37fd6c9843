"""Intervals: the resamples against sets that were really resampled, the width against really drawn sets."""

from __future__ import annotations

import pytest
import torch

from gcsearch.metrics.bootstrap import intervals
from gcsearch.metrics.fid import FID
from gcsearch.metrics.kid import KID
from gcsearch.metrics.precision_recall import PrecisionRecall
from gcsearch.metrics.reference import ReferenceFeatures


def reference_of(features):
    return ReferenceFeatures.of(features, "0" * 64)


def draw(num, rng):
    return torch.randn(num, 4, generator=rng) * torch.tensor([1.0, 0.5, 2.0, 1.0]) + 0.5


def test_resampled_fid_is_the_fid_of_the_chosen_examples(rng):
    generated, reference = draw(10, rng), reference_of(torch.randn(200, 4, generator=rng))
    counts = torch.tensor([[1.0] * 10, [3, 0, 0, 2, 2, 0, 0, 1, 1, 1]], dtype=torch.float64)
    values = FID().resampled(generated, reference, counts)
    once = FID().compute(generated, reference)
    assert {key: value[0].item() for key, value in values.items()} == pytest.approx(once, rel=1e-9)
    rows = torch.arange(10).repeat_interleave(counts[1].long())
    full, even, odd = (
        FID().compute(generated[chosen], reference)["fid"]
        for chosen in (rows, rows[rows % 2 == 0], rows[rows % 2 == 1])
    )
    assert values["fid"][1].item() == pytest.approx(full, rel=1e-9)
    # The halves have few different examples, so that eigenvalues near 0 carry rounding.
    assert values["fid_debiased"][1].item() == pytest.approx(2 * full - (even + odd) / 2, rel=1e-6)


def test_width_is_the_spread_of_really_drawn_sets(rng):
    reference, metrics = reference_of(torch.randn(2000, 4, generator=rng)), (FID(), KID())

    def scores(generated):
        return {key: value for metric in metrics for key, value in metric.compute(generated, reference).items()}

    drawn = [scores(draw(300, rng)) for _ in range(150)]
    generated = draw(300, rng)
    result = intervals(metrics, scores(generated), generated, reference, num_resamples=150, seed=0)
    for key in ("fid", "fid_debiased", "kid"):
        spread = float(torch.tensor([score[key] for score in drawn]).std())
        assert (result[key].high - result[key].low) / 2 == pytest.approx(1.96 * spread, rel=0.25)
        assert (result[key].high + result[key].low) / 2 == pytest.approx(scores(generated)[key])


def test_same_seed_gives_the_same_interval_and_another_seed_another(rng):
    generated, reference = draw(100, rng), reference_of(torch.randn(200, 4, generator=rng))
    scores = FID().compute(generated, reference)
    first, again, other = (
        intervals([FID()], scores, generated, reference, num_resamples=60, seed=seed)["fid"] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert first.low == pytest.approx(other.low, abs=0.5 * (other.high - other.low))


@pytest.mark.usefixtures("unchanged_global_rng")
def test_keys_without_resamples_and_features_that_are_not_finite_have_no_interval(rng):
    generated, reference = draw(100, rng), reference_of(torch.randn(200, 4, generator=rng))
    metrics = (KID(), PrecisionRecall())
    scores = {"kid": 1.0, "precision": 0.5, "recall": 0.5}
    assert list(intervals(metrics, scores, generated, reference, num_resamples=3, seed=0)) == ["kid"]
    undefined = scores | {"kid": float("nan")}
    assert intervals(metrics, undefined, generated, reference, num_resamples=3, seed=0) == {}
    generated[0, 0] = float("nan")
    assert intervals(metrics, scores, generated, reference, num_resamples=3, seed=0) == {}
    with pytest.raises(ValueError, match="at least 2"):
        intervals(metrics, scores, generated, reference, num_resamples=1, seed=0)
