"""Precision and recall against their definition, by brute force, and in cases with a known answer."""

from __future__ import annotations

import math

import pytest
import torch

import gcsearch.metrics.precision_recall as module
from gcsearch.metrics.features import CoordinatesExtractor
from gcsearch.metrics.precision_recall import PrecisionRecall
from gcsearch.metrics.reference import ReferenceFeatures
from gcsearch.metrics.scoring import Scorer


def reference_of(features):
    return ReferenceFeatures.of(features, "0" * 64)


def share_inside(points, centres, k):
    """Share of the points that lie in a ball around some centre, one pair at a time."""

    def distance(a, b):
        return float((a.double() - b.double()).norm())

    radii = [sorted(distance(centre, other) for other in centres)[k] for centre in centres]
    inside = [any(distance(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
    return sum(inside) / len(points)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [16, 2000])
def test_values_are_the_definition(k, block, rng, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    generated, real = torch.randn(40, 3, generator=rng) + 0.7, torch.randn(30, 3, generator=rng)
    values = PrecisionRecall(neighbours=k).compute(generated, reference_of(real))
    assert values["precision"] == pytest.approx(share_inside(generated, real, k))
    assert values["recall"] == pytest.approx(share_inside(real, generated, k))
    assert 0 < values["precision"] < 1


def test_samples_of_half_of_the_data_are_precise_but_miss_the_other_half(rng):
    left, right = torch.randn(200, 2, generator=rng), torch.randn(200, 2, generator=rng) + 100
    values = PrecisionRecall().compute(left, reference_of(torch.cat([left, right])))
    assert values == pytest.approx({"precision": 1.0, "recall": 0.5})


def test_samples_that_go_beyond_the_data_are_imprecise_but_reach_all_of_it(rng):
    left, right = torch.randn(200, 2, generator=rng), torch.randn(200, 2, generator=rng) + 100
    values = PrecisionRecall().compute(torch.cat([left, right]), reference_of(left))
    assert values == pytest.approx({"precision": 0.5, "recall": 1.0})


def test_features_that_are_not_finite_give_nan(rng):
    generated = torch.randn(20, 2, generator=rng)
    generated[0, 0] = float("inf")
    values = PrecisionRecall().compute(generated, reference_of(torch.randn(20, 2, generator=rng)))
    assert tuple(values) == PrecisionRecall().keys
    assert all(math.isnan(value) for value in values.values())


def test_too_few_examples_on_either_side_and_meaningless_settings_are_refused(rng):
    few, many = torch.randn(5, 2, generator=rng), torch.randn(50, 2, generator=rng)
    metric = PrecisionRecall(neighbours=5)
    with pytest.raises(ValueError, match="at least 6 samples, got 5"):
        metric.compute(few, reference_of(many))
    settings = {"metrics": [metric], "extractor": CoordinatesExtractor(), "reference_name": "points"}
    assert Scorer(reference=reference_of(many), **settings).min_samples == 6
    with pytest.raises(ValueError, match="at least 6 real examples, got 5"):
        Scorer(reference=reference_of(few), **settings)
    with pytest.raises(ValueError, match="neighbours"):
        PrecisionRecall(neighbours=0)


def test_higher_is_better_and_copies_give_no_interval(rng):
    metric, real = PrecisionRecall(), torch.randn(50, 2, generator=rng)
    assert metric.lower_is_better is False
    assert metric.resampled(real, reference_of(real), torch.ones(3, 50)) == {}
