"""Laws of every metric. A new one is tested here unasked."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
import torch

from gcsearch.metrics import ModelMetric, ReferenceFeatures, SampleMetric, extractors, metrics
from gcsearch.registry import spec


@pytest.mark.each("metric")
def test_metric_is_a_frozen_dataclass_of_one_of_the_two_kinds(component):
    cls = type(component)
    assert isinstance(component, SampleMetric) != isinstance(component, ModelMetric)
    assert cls.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(cls))
    assert cls.__doc__ is not None
    assert not cls.__doc__.startswith(f"{cls.__name__}(")
    assert pickle.loads(pickle.dumps(component)) == component
    assert set(spec(component)) == {"name", *(field.name for field in dataclasses.fields(cls))}


@pytest.mark.each("metric")
def test_keys_of_a_metric_are_its_own(component):
    assert len(component.keys) > 0
    full = [f"{metrics[name].section}/{key}" for name in metrics for key in metrics[name]().keys]
    assert len(set(full)) == len(full)
    if isinstance(component, SampleMetric):
        assert isinstance(component.lower_is_better, bool)


@pytest.mark.each("metric")
@pytest.mark.usefixtures("unchanged_global_rng")
def test_score_of_samples_has_its_keys_and_is_nan_for_features_that_are_not_finite(component, rng):
    if not isinstance(component, SampleMetric):
        pytest.skip("needs no samples")
    extractor = extractors["digits"]()  # 64 features, and classes for the metrics that need them
    reference = ReferenceFeatures.of(torch.randn(128, 64, generator=rng), "ab" * 32, extractor)
    features = torch.randn(96, 64, generator=rng)
    assert tuple(component.compute(features, reference)) == component.keys
    features[0, 0] = float("nan")
    values = component.compute(features, reference)
    assert tuple(values) == component.keys
    assert all(map(math.isnan, values.values()))
