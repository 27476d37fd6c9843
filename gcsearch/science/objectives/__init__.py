"""Objectives: what a training step minimises. One file each; a new file registers itself."""

from gcsearch.registry import import_siblings
from gcsearch.science.objectives.base import (
    LossTerms,
    Models,
    Objective,
    Recipe,
    end_points,
    objectives,
)
from gcsearch.science.objectives.prepared import Pairs, PreparedBatch, TensorObjective, training_pairs

import_siblings(__name__, __path__)

__all__ = [
    "LossTerms",
    "Models",
    "Objective",
    "Pairs",
    "PreparedBatch",
    "Recipe",
    "TensorObjective",
    "end_points",
    "objectives",
    "training_pairs",
]
