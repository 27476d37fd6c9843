"""Inception score against its limits, its definition and torch-fidelity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from gcsearch.metrics.features import CoordinatesExtractor, DigitsExtractor
from gcsearch.metrics.inception_score import InceptionScore
from gcsearch.metrics.reference import ReferenceFeatures
from gcsearch.metrics.scoring import check_metric


@dataclass(frozen=True, kw_only=True)
class Direct(CoordinatesExtractor):
    """Features that are logits already."""

    has_classes = True

    def classify(self, features):
        return features


@pytest.fixture
def reference(rng):
    return ReferenceFeatures.of(torch.randn(10, 4, generator=rng), "0" * 64, Direct())


def test_sure_and_even_samples_reach_the_number_of_classes(reference):
    logits = 100 * torch.eye(4).repeat(50, 1)
    assert InceptionScore(splits=1).compute(logits, reference)["is"] == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize("logits", [torch.zeros(200, 4), 100 * torch.eye(4)[[1] * 200]], ids=["unsure", "one class"])
def test_unsure_or_uniform_samples_score_one(logits, reference):
    assert InceptionScore().compute(logits, reference)["is"] == pytest.approx(1, rel=1e-6)


def test_score_is_the_definition(reference, rng):
    logits = 2 * torch.randn(300, 4, generator=rng)
    p = logits.double().softmax(dim=1)
    expected = math.exp((p * (p.log() - p.mean(dim=0).log())).sum(dim=1).mean())
    assert InceptionScore(splits=1).compute(logits, reference)["is"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num", [300, 307])
def test_splits_are_those_of_torch_fidelity(num, reference, rng):
    logits = 2 * torch.randn(num, 4, generator=rng)
    expected = isc_features_to_metric(logits)["inception_score_mean"]
    assert InceptionScore().compute(logits, reference)["is"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("splits", [1, 7])
def test_resample_of_every_example_once_is_the_score_itself(splits, reference, rng):
    logits, metric = 2 * torch.randn(300, 4, generator=rng), InceptionScore(splits=splits)
    counts = torch.ones(2, 300, dtype=torch.float64)
    values = metric.resampled(logits, reference, counts)["is"]
    assert values.tolist() == pytest.approx([metric.compute(logits, reference)["is"]] * 2, rel=1e-9)


def test_resample_is_the_score_of_the_chosen_examples(reference, rng):
    logits = 2 * torch.randn(6, 4, generator=rng)
    counts = torch.tensor([[2.0, 0, 1, 0, 3, 0]], dtype=torch.float64)
    chosen = logits[[0, 0, 2, 4, 4, 4]]
    expected = InceptionScore(splits=1).compute(chosen, reference)["is"]
    assert InceptionScore(splits=1).resampled(logits, reference, counts)["is"].item() == pytest.approx(expected)


def test_features_that_are_not_finite_give_nan(reference):
    logits = torch.zeros(50, 4)
    logits[3, 1] = float("nan")
    assert math.isnan(InceptionScore().compute(logits, reference)["is"])


def test_too_few_samples_and_meaningless_settings_are_refused(reference):
    with pytest.raises(ValueError, match="at least 10 samples, got 9"):
        InceptionScore().compute(torch.zeros(9, 4), reference)
    with pytest.raises(ValueError, match="splits"):
        InceptionScore(splits=0)


def test_an_extractor_without_classes_is_refused_with_its_name():
    check_metric(InceptionScore(), DigitsExtractor())
    with pytest.raises(ValueError, match=r"metric 'is'.*classifier, got 'coordinates'"):
        check_metric(InceptionScore(), CoordinatesExtractor())
    with pytest.raises(ValueError, match="unknown origin"):
        ReferenceFeatures.of(torch.randn(10, 2), "0").classify(torch.zeros(4, 2))
