"""Metrics of generated examples, and the features they see. One file per metric; a new file registers itself."""

from gcsearch.metrics.base import Metric, metrics
from gcsearch.metrics.bootstrap import Interval
from gcsearch.metrics.evaluate import Evaluation, Evaluator
from gcsearch.metrics.features import Extractor, extractors
from gcsearch.metrics.identity import ScoreIdentity, check_comparable
from gcsearch.metrics.reference import ReferenceFeatures, default_cache_dir, reference_features
from gcsearch.metrics.scoring import Scorer
from gcsearch.registry import import_siblings

import_siblings(__name__, __path__)

__all__ = [
    "Evaluation",
    "Evaluator",
    "Extractor",
    "Interval",
    "Metric",
    "ReferenceFeatures",
    "ScoreIdentity",
    "Scorer",
    "check_comparable",
    "default_cache_dir",
    "extractors",
    "metrics",
    "reference_features",
]
