"""Kernel distance against its definition, and its limits."""

from __future__ import annotations

import math

import pytest
import torch

from gcsearch.metrics.kid import KID
from gcsearch.metrics.reference import ReferenceFeatures


def reference_of(features):
    return ReferenceFeatures.of(features, "0" * 64)


def full_estimate(x, y):
    """Unbiased estimate over all pairs at once: what the mean over subsets converges to."""
    x, y = x.double(), y.double()

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(sum(within) - 2 * kernel(x, y).mean())


def test_mean_over_many_subsets_approaches_the_estimate_over_all_pairs(rng):
    generated, real = torch.randn(400, 8, generator=rng) + 0.5, torch.randn(300, 8, generator=rng)
    value = KID(subset_size=100, num_subsets=400).compute(generated, reference_of(real))["kid"]
    assert value == pytest.approx(full_estimate(generated, real), rel=0.03)


def test_value_is_deterministic(rng):
    generated, real = torch.randn(100, 8, generator=rng), reference_of(torch.randn(100, 8, generator=rng))
    assert KID().compute(generated, real) == KID().compute(generated.clone(), real)


@pytest.mark.parametrize(("num", "num_real"), [(4, 300), (300, 5), (31, 64)])
def test_subsets_shrink_to_half_of_the_smaller_set(num, num_real, rng):
    generated, real = torch.randn(num, 3, generator=rng), reference_of(torch.randn(num_real, 3, generator=rng))
    half = min(num // 2, num_real // 2)
    assert KID().compute(generated, real) == KID(subset_size=half).compute(generated, real)
    assert math.isfinite(KID().compute(generated, real)["kid"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_give_nan(bad, rng):
    generated = torch.randn(100, 3, generator=rng)
    generated[0, 0] = bad
    value = KID().compute(generated, reference_of(torch.randn(100, 3, generator=rng)))["kid"]
    assert math.isnan(value)


def test_overflow_of_the_kernel_gives_no_finite_value_and_no_warning(rng, recwarn):
    generated = 1e25 * torch.randn(100, 3, generator=rng)
    value = KID().compute(generated, reference_of(torch.randn(100, 3, generator=rng)))["kid"]
    assert not math.isfinite(value)
    assert [str(warning.message) for warning in recwarn if warning.category is RuntimeWarning] == []


@pytest.mark.parametrize("settings", [{"subset_size": 1}, {"num_subsets": 0}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        KID(**settings)
