"""Objectives: what a training step minimises. One file each; a new file registers itself."""

from gcsearch.registry import import_siblings
from gcsearch.science.objectives.base import (
    LossTerms,
    Models,
    Objective,
    Pairs,
    Recipe,
    end_points,
    objectives,
    training_pairs,
)

import_siblings(__name__, __path__)

__all__ = ["LossTerms", "Models", "Objective", "Pairs", "Recipe", "end_points", "objectives", "training_pairs"]
