"""Small changes of known trials."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gcsearch.tuning.samplers.base import Observation, from_unit
from gcsearch.tuning.space import Choice, Range

STEPS = (0.01, 0.4)
"""Smallest and largest standard deviation of a change, as a share of the range."""


class NeighbourChooser:
    """Varies a trial: all its choices or some of them, by a step whose size is log-uniform, as none is right for all.

    A range takes a Gaussian step, reflected at its ends; a choice takes another option more often in a larger step. One
    choice, taken at random, changes in any case, since the same trial again would teach nothing.

    Args:
        center: The trial.
        random: Source of random numbers.
    """

    def __init__(self, center: Observation, random: np.random.Generator) -> None:
        self.center = center
        self.random = random
        self.width = math.exp(random.uniform(math.log(STEPS[0]), math.log(STEPS[1])))
        self.share = 1.0 if random.random() < 0.5 else float(random.uniform(0.1, 0.6))
        names = sorted(center.units)
        self.changed = names[int(random.integers(len(names)))] if names else None

    def number(self, name: str, node: Range) -> float:
        if name not in self.center.units:
            return from_unit(float(self.random.random()), node)
        unit = self.center.units[name]
        here = from_unit(unit, node)
        if name != self.changed and self.random.random() > self.share:
            return here
        moved = abs(unit + self.width * self.random.standard_normal())
        value = from_unit(min(max(min(moved, 2 - moved), 0.0), 1.0), node)
        if node.is_integer and value == here:  # a step too small to be seen
            value = int(min(max(value + (1 if self.random.random() < 0.5 else -1), node.low), node.high))
        return value

    def option(self, name: str, node: Choice) -> Any:
        labels = [option.label for option in node.options]
        if name not in self.center.units:
            return labels[int(self.random.integers(len(labels)))]
        here = int(self.center.units[name])
        if len(labels) > 1 and (name == self.changed or self.random.random() < self.share * min(0.5, self.width)):
            return labels[(here + int(self.random.integers(1, len(labels)))) % len(labels)]
        return labels[here]
