"""Metrics of generated examples, and the features they see. One file per metric; a new file registers itself."""

from gcsearch.metrics.base import Metric, metrics
from gcsearch.metrics.evaluate import Evaluation, Evaluator
from gcsearch.metrics.features import Extractor, extractors
from gcsearch.metrics.identity import ScoreIdentity, check_comparable
from gcsearch.metrics.reference import ReferenceFeatures, reference_features
from gcsearch.registry import import_siblings

import_siblings(__name__, __path__)

__all__ = [
    "Evaluation",
    "Evaluator",
    "Extractor",
    "Metric",
    "ReferenceFeatures",
    "ScoreIdentity",
    "check_comparable",
    "extractors",
    "metrics",
    "reference_features",
]
