"""Scores of all rungs on one scale, so that one model can learn from all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gcsearch.tuning.samplers.base import Observation

PSEUDO_COUNT = 5
"""Trials that two rungs must share before the ratio of their spreads is believed as much as that of the rungs below."""

BAD = 2.0
"""A diverged trial is at least this bad."""

Column = dict[int, float]
"""Trial (its index among the observations) -> value, lower is better."""


def on_one_scale(
    observations: Sequence[Observation], rungs: Sequence[int], groups: Sequence[object]
) -> dict[int, Column]:
    """Values by rung: increasing functions of the scores there, alike in location and spread for the same trials.

    The first rung's scores are centred at their median and divided by their spread. A later rung is shifted and scaled
    so that the trials it shares with the one below have the same median and the same mean deviation at both. So what
    only the best reach is not taken for an average sample. Below the last rung trials of different groups are not
    compared, as the stopping rule does not either: each group has a scale of its own. The bad side is compressed,
    since how bad a bad trial is says little about where the best ones are.

    Args:
        observations: Trials.
        rungs: All rungs, increasing.
        groups: Group of each trial.
    """
    known: dict[int, Column] = {}
    latest: Column = {}
    slopes = dict.fromkeys(groups, math.nan)  # value per score at the latest rung of a group
    for rung in rungs:
        column = {index: one.scores[rung] for index, one in enumerate(observations) if rung in one.scores}
        is_last = rung == rungs[-1]
        for group in dict.fromkeys(groups[index] for index in column):
            members = {i: score for i, score in column.items() if is_last or groups[i] == group}
            values, slopes[group] = _placed(members, latest, slopes[group])
            known.setdefault(rung, {}).update(values)
            if is_last:
                break
        latest |= {index: value for index, value in known.get(rung, {}).items() if math.isfinite(value)}
    worst = max([BAD, *(value for column in known.values() for value in column.values() if math.isfinite(value))])
    return {
        rung: {index: _compressed(value if math.isfinite(value) else worst) for index, value in column.items()}
        for rung, column in known.items()
        if column
    }


def _placed(scores: Mapping[int, float], below: Mapping[int, float], slope: float) -> tuple[Column, float]:
    """Values of some trials at a rung, and the slope that made them of the scores."""
    finite = np.array([score for score in scores.values() if math.isfinite(score)])
    if not len(finite):
        return dict.fromkeys(scores, math.inf), slope
    shared = [index for index, score in scores.items() if math.isfinite(score) and index in below]
    if not shared:
        center, target = float(np.median(finite)), 0.0
        spread = float(np.quantile(finite, 0.75) - finite.min()) / 2
        slope = 1 / spread if spread > 0 else 1.0
    else:
        here = np.array([scores[index] for index in shared])
        there = np.array([below[index] for index in shared])
        center, target = float(np.median(here)), float(np.median(there))
        wide, known = float(np.abs(here - center).mean()), float(np.abs(there - target).mean())
        if math.isnan(slope):
            slope = 1.0
        if wide > 0 and known > 0:
            trust = len(shared) / (len(shared) + PSEUDO_COUNT)
            slope = math.exp(trust * math.log(known / wide) + (1 - trust) * math.log(slope))
    values = {i: target + slope * (v - center) if math.isfinite(v) else math.inf for i, v in scores.items()}
    return values, slope


def _compressed(value: float) -> float:
    return math.log1p(value) if value > 0 else value
