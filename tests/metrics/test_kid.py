"""Kernel distance against its definition, torch-fidelity's subsets, and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

import gcsearch.metrics.kernel as module
from gcsearch.metrics.kernel import mean_between, mean_map, mean_within, resampled_means
from gcsearch.metrics.kid import KID
from gcsearch.metrics.reference import ReferenceFeatures


def reference_of(features):
    return ReferenceFeatures.of(features, "0" * 64)


def kernel(a, b):
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def estimate_by_definition(x, y):
    """Pair by pair, as the definition has it."""
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(sum(within) - 2 * kernel(x, y).mean())


@pytest.mark.parametrize("block", [7, 64, 2048])
@pytest.mark.parametrize("most", [0, 128])
def test_value_is_the_definition_for_any_block_size_by_pairs_and_by_the_map(block, most, rng, monkeypatch):
    for name, value in {"BLOCK": block, "MAP_BLOCK": block, "MAX_MAPPED": most}.items():
        monkeypatch.setattr(module, name, value)
    generated, real = torch.randn(100, 8, generator=rng) + 0.2, torch.randn(73, 8, generator=rng)
    reference = reference_of(real)
    assert (mean_map(generated) is None) == (reference.kernel_map is None) == (most == 0)
    value = KID().compute(generated, reference)["kid"]
    assert value == pytest.approx(estimate_by_definition(generated, real), rel=1e-10)
    assert mean_within(real, None) == pytest.approx(reference.kernel_mean, rel=1e-12)


@pytest.mark.parametrize("num_features", [1, 2, 3, 64])
def test_inner_product_of_two_maps_is_the_mean_kernel(num_features, rng):
    left, right = torch.randn(50, num_features, generator=rng) + 1, torch.randn(40, num_features, generator=rng)
    assert float(mean_map(left) @ mean_map(right)) == pytest.approx(mean_between(left, right), rel=1e-12)
    assert float(mean_map(left) @ mean_map(left)) == pytest.approx(mean_between(left, left), rel=1e-12)


def test_one_subset_of_torch_fidelity_is_the_same_number(rng):
    generated, real = torch.randn(300, 8, generator=rng) + 0.3, torch.randn(300, 8, generator=rng)
    theirs = kid_features_to_metric(
        generated.double(), real.double(), kid_subset_size=300, kid_subsets=1, rng_seed=0, verbose=False
    )
    ours = KID().compute(generated, reference_of(real))["kid"]
    assert ours == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_value_agrees_with_the_subsets_of_torch_fidelity_within_their_error(shift, rng):
    generated, real = torch.randn(900, 16, generator=rng) + shift, torch.randn(800, 16, generator=rng)
    num_subsets = 100
    theirs = kid_features_to_metric(
        generated, real, kid_subset_size=200, kid_subsets=num_subsets, rng_seed=0, verbose=False
    )
    ours = KID().compute(generated, reference_of(real))["kid"]
    standard_error = theirs[KEY_METRIC_KID_STD] / math.sqrt(num_subsets)
    assert abs(ours - theirs[KEY_METRIC_KID_MEAN]) < 4 * standard_error


def test_mean_over_many_draws_is_zero_for_the_same_distribution(rng):
    values = [
        KID().compute(torch.randn(20, 4, generator=rng), reference_of(torch.randn(30, 4, generator=rng)))["kid"]
        for _ in range(400)
    ]
    values = torch.tensor(values)
    assert abs(values.mean()) < 4 * values.std() / 20
    assert (values < 0).any()  # unbiased, so it cannot be always positive


def test_resampled_means_are_those_of_the_chosen_examples_without_pairs_of_copies(rng):
    left, right = torch.randn(12, 3, generator=rng), torch.randn(9, 3, generator=rng)
    counts = torch.tensor([[1.0] * 12, [2, 0, 1, 3] + [0] * 4 + [1, 1, 2, 2]], dtype=torch.float64)
    within, between = resampled_means(left, right, counts)
    assert float(within[0]) == pytest.approx(mean_within(left, None), rel=1e-12)
    assert float(between[0]) == pytest.approx(mean_between(left, right), rel=1e-12)
    chosen = torch.arange(12).repeat_interleave(counts[1].long())
    pairs = kernel(left[chosen], left[chosen])[chosen[:, None] != chosen[None, :]]
    assert float(within[1]) == pytest.approx(float(pairs.mean()), rel=1e-12)
    assert float(between[1]) == pytest.approx(mean_between(left[chosen], right), rel=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_give_nan(bad, rng):
    generated = torch.randn(100, 3, generator=rng)
    generated[0, 0] = bad
    value = KID().compute(generated, reference_of(torch.randn(100, 3, generator=rng)))["kid"]
    assert math.isnan(value)


def test_huge_but_finite_features_do_not_raise(rng):
    value = KID().compute(1e25 * torch.randn(100, 3, generator=rng), reference_of(torch.randn(100, 3, generator=rng)))
    assert abs(value["kid"]) > 1e100


def test_too_few_samples_are_refused(rng):
    with pytest.raises(ValueError, match="metric 'kid': there must be at least 4 samples, got 3"):
        KID().compute(torch.zeros(3, 2), reference_of(torch.randn(10, 2, generator=rng)))
