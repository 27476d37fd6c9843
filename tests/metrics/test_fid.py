"""Frechet distance against closed forms and torch-fidelity."""

from __future__ import annotations

import math

import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from gcsearch.metrics.fid import FID, frechet_distance
from gcsearch.metrics.reference import FIT_BLOCK, ReferenceFeatures, gaussian_fit


def correlated(num, dimensions, rng, shift=0.0):
    """Features with unequal variances and correlations."""
    mixing = torch.randn(dimensions, dimensions, generator=rng) / math.sqrt(dimensions)
    return torch.randn(num, dimensions, generator=rng) @ mixing + shift


def reference_of(features):
    return ReferenceFeatures.of(features, "0" * 64)


def theirs(generated, reference):
    statistics = (fid_features_to_statistics(features.double()) for features in (generated, reference))
    return fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]


@pytest.mark.parametrize(("std_a", "std_b", "shift"), [(1.0, 1.0, 2.0), (0.5, 3.0, 0.0), (2.0, 0.0, 1.0)])
def test_distance_of_isotropic_gaussians_is_the_closed_form(std_a, std_b, shift):
    mean, eye = torch.zeros(5), torch.eye(5)
    distance = frechet_distance(mean, std_a**2 * eye, mean + shift, std_b**2 * eye)
    assert distance == pytest.approx(5 * shift**2 + 5 * (std_a - std_b) ** 2, rel=1e-12)


def test_distance_of_rotated_gaussians_is_the_closed_form():
    # For 2 x 2 matrices tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)).
    cov_a = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    cov_b = torch.tensor([[0.7, -0.4], [-0.4, 3.0]], dtype=torch.float64)
    product = cov_a @ cov_b
    root_trace = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    expected = float(cov_a.trace() + cov_b.trace()) - 2 * root_trace
    mean = torch.zeros(2)
    assert frechet_distance(mean, cov_a, mean, cov_b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(mean, cov_b, mean, cov_a) == pytest.approx(expected, rel=1e-12)


def test_distance_of_equal_features_is_zero(rng):
    features = correlated(500, 16, rng)
    assert FID().compute(features, reference_of(features))["fid"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("num", "dimensions"), [(2000, 64), (300, 64), (40, 64), (500, 2), (7, 3)])
def test_distance_equals_torch_fidelity(num, dimensions, rng):
    generated, real = correlated(num, dimensions, rng, shift=0.3), correlated(400, dimensions, rng)
    ours = FID().compute(generated, reference_of(real))["fid"]
    assert ours == pytest.approx(theirs(generated, real), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("num", [3000, 500], ids=["full rank", "fewer samples than dimensions"])
def test_distance_of_inception_size_equals_torch_fidelity(num, rng):
    generated, real = correlated(num, 2048, rng, shift=0.02), correlated(3000, 2048, rng)
    ours = FID().compute(generated, reference_of(real))["fid"]
    assert ours == pytest.approx(theirs(generated, real), rel=1e-5)


@pytest.mark.parametrize("num", [50, 2 * FIT_BLOCK + 1])
def test_statistics_are_those_of_torch_fidelity(num, rng):
    features = correlated(num, 8, rng)
    mean, covariance = gaussian_fit(features)
    expected = fid_features_to_statistics(features.double())
    torch.testing.assert_close(mean, torch.from_numpy(expected["mu"]))
    torch.testing.assert_close(covariance, torch.from_numpy(expected["sigma"]))


def test_debiased_distance_is_twice_the_whole_minus_the_mean_of_the_halves(rng):
    generated, reference = correlated(201, 8, rng), reference_of(correlated(400, 8, rng))
    values = FID().compute(generated, reference)
    halves = [FID().compute(half, reference)["fid"] for half in (generated[0::2], generated[1::2])]
    assert values["fid_debiased"] == pytest.approx(2 * values["fid"] - sum(halves) / 2, rel=1e-12)


def test_debiased_distance_is_nearer_to_the_truth(rng):
    mixing = torch.randn(32, 32, generator=rng) / math.sqrt(32)
    reference = reference_of(torch.randn(100_000, 32, generator=rng) @ mixing)
    plain, debiased = [], []
    for _ in range(20):
        values = FID().compute(torch.randn(500, 32, generator=rng) @ mixing, reference)
        plain.append(values["fid"])
        debiased.append(abs(values["fid_debiased"]))
    assert sum(debiased) < 0.25 * sum(plain)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_give_nan(bad, rng):
    features = correlated(100, 4, rng)
    features[3, 2] = bad
    values = FID().compute(features, reference_of(correlated(100, 4, rng)))
    assert tuple(values) == FID().keys
    assert all(math.isnan(value) for value in values.values())


def test_huge_but_finite_features_do_not_raise(rng):
    values = FID().compute(1e30 * correlated(100, 4, rng), reference_of(correlated(100, 4, rng)))
    assert values["fid"] > 1e50


def test_constant_features_have_the_distance_of_a_point(rng):
    real = reference_of(correlated(300, 4, rng))
    value = FID().compute(torch.ones(100, 4), real)["fid"]
    assert value == pytest.approx(float((1 - real.mean).square().sum() + real.covariance.trace()), rel=1e-6)


def test_too_few_samples_are_refused(rng):
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        FID().compute(torch.zeros(3, 2), reference_of(correlated(10, 2, rng)))
