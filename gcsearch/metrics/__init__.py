"""Metrics of generated examples and of networks in training. One file per metric; a new file registers itself."""

from gcsearch.metrics.base import Metric, ModelMetric, SampleMetric, Subject, metrics
from gcsearch.metrics.bootstrap import Interval
from gcsearch.metrics.evaluate import Evaluation, Evaluator
from gcsearch.metrics.features import Extractor, extractors
from gcsearch.metrics.identity import ScoreIdentity, check_comparable
from gcsearch.metrics.reference import ReferenceFeatures, reference_features
from gcsearch.metrics.scoring import Scorer
from gcsearch.registry import import_siblings

import_siblings(__name__, __path__)

__all__ = [
    "Evaluation",
    "Evaluator",
    "Extractor",
    "Interval",
    "Metric",
    "ModelMetric",
    "ReferenceFeatures",
    "SampleMetric",
    "ScoreIdentity",
    "Scorer",
    "Subject",
    "check_comparable",
    "extractors",
    "metrics",
    "reference_features",
]
