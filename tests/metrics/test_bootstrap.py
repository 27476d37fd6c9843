"""Intervals: influences against derivatives and a full bootstrap, the width against really drawn sets."""

from __future__ import annotations

import pytest
import torch

from gcsearch.data.digits import Digits
from gcsearch.metrics.bootstrap import intervals
from gcsearch.metrics.features import DigitsExtractor
from gcsearch.metrics.fid import FID
from gcsearch.metrics.kid import KID
from gcsearch.metrics.precision_recall import PrecisionRecall
from gcsearch.metrics.reference import ReferenceFeatures, extract


def reference_of(features):
    return ReferenceFeatures.of(features, "0" * 64)


def draw(num, rng):
    return torch.randn(num, 4, generator=rng) * torch.tensor([1.0, 0.5, 2.0, 1.0]) + 0.5


def weighted_fids(generated, reference, weights):
    """`fid` and `fid_debiased` if example i has the weight weights[i], with the trace term from singular values.

    With X the centred examples as rows, tr((R X'X R)^(1/2)) is the sum of the singular values of X R.
    """

    def distance(rows):
        values, shares = generated[rows].double(), weights[rows] / weights[rows].sum()
        mean = shares @ values
        scaled = (shares * len(values) / (len(values) - 1)).sqrt()[:, None] * (values - mean)
        trace_root = torch.linalg.svdvals(scaled @ reference.root).sum()
        traces = scaled.square().sum() + reference.covariance.trace()
        return float((mean - reference.mean).square().sum() + traces - 2 * trace_root)

    whole, even, odd = (distance(slice(*rows)) for rows in ((None,), (0, None, 2), (1, None, 2)))
    return torch.tensor([whole, 2 * whole - (even + odd) / 2], dtype=torch.float64)


@pytest.mark.parametrize(("num", "dimensions"), [(201, 4), (24, 40)], ids=["full rank", "fewer than dimensions"])
def test_influences_on_fid_are_its_derivatives(num, dimensions, rng):
    generated = torch.randn(num, dimensions, generator=rng) + 0.3
    reference = reference_of(1.5 * torch.randn(300, dimensions, generator=rng))
    influences = FID().influences(generated, reference)
    assert tuple(influences) == FID().keys
    step = 1e-5
    for example in (0, 1, 17):
        towards = -torch.ones(num, dtype=torch.float64)
        towards[example] += num
        above, below = (weighted_fids(generated, reference, 1 + sign * step * towards) for sign in (1, -1))
        expected = (above - below) / (2 * step)
        found = torch.stack([values[example] for values in influences.values()])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for values in influences.values():
        assert float(values.mean()) == pytest.approx(0, abs=1e-9)


def noisy_digits(num, noise, rng):
    """Features of digits drawn with replacement, with noise in their pixels."""
    images = Digits().load().values
    chosen = images[torch.randint(len(images), (num,), generator=rng)]
    noisy = (chosen + noise * torch.randn(chosen.shape, generator=rng)).clamp(0, 255).to(torch.uint8)
    return extract(DigitsExtractor().load(), noisy)


def digits_reference():
    examples = Digits().load()
    return ReferenceFeatures.of(extract(DigitsExtractor().load(), examples.values), examples.sha256)


def test_width_of_fid_is_that_of_its_full_bootstrap(rng):
    generated, reference = noisy_digits(1_000, 60.0, rng), digits_reference()
    resamples = []
    for _ in range(100):
        chosen = torch.randint(len(generated), (len(generated),), generator=rng)
        rows = chosen, chosen[chosen % 2 == 0], chosen[chosen % 2 == 1]
        whole, even, odd = (FID().compute(generated[part], reference)["fid"] for part in rows)
        resamples.append([whole, 2 * whole - (even + odd) / 2])
    scores = FID().compute(generated, reference)
    result = intervals([FID()], scores, generated, reference, num_resamples=2, seed=0)
    for key, deviation in zip(FID().keys, torch.tensor(resamples).std(dim=0).tolist(), strict=True):
        # 100 resamples have an error of 7 %; the debiased score has curvature besides.
        assert (result[key].high - result[key].low) / 2 == pytest.approx(1.96 * deviation, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "widest"), [(0.0, 2.5), (60.0, 1.3)], ids=["the data's own", "far from the data"])
def test_width_of_fid_is_the_spread_of_really_drawn_digits(noise, widest, rng):
    reference = digits_reference()
    drawn = [noisy_digits(1_000, noise, rng) for _ in range(80)]
    scores = [FID().compute(generated, reference) for generated in drawn]
    spread = float(torch.tensor([score["fid"] for score in scores]).std())
    widths = [
        intervals([FID()], score, generated, reference, num_resamples=2, seed=0)["fid"]
        for score, generated in zip(scores[:5], drawn[:5], strict=True)
    ]
    ratio = sum(width.high - width.low for width in widths) / 5 / (2 * 1.96 * spread)
    # Where the distance is nothing but bias its derivative vanishes too, and the width is an upper bound.
    assert 0.75 < ratio < widest


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
    scores = KID().compute(generated, reference)
    first, again, other = (
        intervals([KID()], scores, generated, reference, num_resamples=60, seed=seed)["kid"] for seed in (1, 1, 2)
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
