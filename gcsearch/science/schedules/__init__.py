"""Discretisation over training, level proposals and loss weights.

`Timesteps`: which pairs of levels at step k of K. `Levels`: which levels are drawn. `Weighting`: weight of a pair.
"""

from gcsearch.science.schedules.levels import Levels, Lognormal, Uniform, interval_indices, levels
from gcsearch.science.schedules.timesteps import (
    Continuous,
    Exponential,
    Fixed,
    GridTimesteps,
    SquareRoot,
    Timesteps,
    timesteps,
)
from gcsearch.science.schedules.weighting import InverseGap, Unweighted, Weighting, weightings

__all__ = [
    "Continuous",
    "Exponential",
    "Fixed",
    "GridTimesteps",
    "InverseGap",
    "Levels",
    "Lognormal",
    "SquareRoot",
    "Timesteps",
    "Uniform",
    "Unweighted",
    "Weighting",
    "interval_indices",
    "levels",
    "timesteps",
    "weightings",
]
