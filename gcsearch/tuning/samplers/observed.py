"""Trials as arrays that a model can be fitted to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gcsearch.tuning.samplers.base import History, Observation, nodes_of
from gcsearch.tuning.samplers.rung_process import Floats, Integers, Observed
from gcsearch.tuning.space import Choice, Space

MAX_SCORES = 400
"""Scores that a model conditions on, those of the highest rungs and the latest trials first."""

SCORES_A_TRIAL = 2
"""Scores of a trial that are used, from its highest rung down: neighbouring rungs say how rungs are related, and
those further down add little."""


class Encoder:
    """Parameters as points of a cube.

    A range is a feature in [0, 1] on its own scale; every option of a choice is one of 0 or sqrt(1/2), so that two
    options are 1 apart. A range that a trial does not have is in the middle, a choice that it does not have nowhere:
    the choice above them already tells such trials apart.

    Args:
        space: The space.
    """

    def __init__(self, space: Space) -> None:
        self._columns: dict[str, tuple[int, bool]] = {}
        dimensions: list[int] = []
        for dimension, (name, node) in enumerate(nodes_of(space).items()):
            self._columns[name] = (len(dimensions), isinstance(node, Choice))
            dimensions += [dimension] * (len(node.options) if isinstance(node, Choice) else 1)
        self.dimensions: Integers = np.array(dimensions, dtype=np.int64)
        self._empty = np.zeros(len(dimensions))
        self._empty[[column for column, is_choice in self._columns.values() if not is_choice]] = 0.5

    def features(self, trials: Sequence[Observation]) -> Floats:
        """(trials, features)."""
        features = np.tile(self._empty, (len(trials), 1))
        for row, trial in zip(features, trials, strict=True):
            for name, unit in trial.units.items():
                column, is_choice = self._columns[name]
                row[column + int(unit) if is_choice else column] = math.sqrt(0.5) if is_choice else unit
        return features


def spaced(rungs: Sequence[int]) -> list[int]:
    """Rungs to model, increasing: the horizon, and from there down each that is at most half of the last one taken."""
    taken: list[int] = []
    for rung in sorted(rungs, reverse=True):
        if not taken or rung <= taken[-1] / 2:
            taken.append(rung)
    return taken[::-1]


def observe(history: History, encoder: Encoder, rungs: Sequence[int]) -> Observed:
    """The known scores at some rungs, as arrays.

    Args:
        history: What is known.
        encoder: For its space.
        rungs: Images of the rungs, increasing.
    """
    columns = [
        {index: one.scores[rung] for index, one in enumerate(history.observations) if rung in one.scores}
        for rung in rungs
    ]
    scaled = common_scale(columns)
    found = []
    for index in range(len(history.observations)):
        reached = [rung for rung, column in enumerate(scaled) if index in column]
        found += [(rung, index) for rung in reached[-SCORES_A_TRIAL:]]
    found = sorted(found, reverse=True)[:MAX_SCORES]
    return Observed(
        features=encoder.features([history.observations[index] for _, index in found]),
        dimensions=encoder.dimensions,
        rungs=np.array([rung for rung, _ in found], dtype=np.int64),
        scores=np.array([scaled[rung][index] for rung, index in found]),
        num_rungs=len(rungs),
    )


def common_scale(columns: Sequence[Mapping[int, float]]) -> list[dict[int, float]]:
    """Scores of every rung on one scale, up to an offset for each rung.

    u = (score - median) / (median - first decile) of a rung, and log(1 + u) where that is positive, so that a few very
    bad trials do not hide how good ones differ. Then a rung's scores are stretched until the trials that were also one
    rung below have the spread that they had there. A diverged trial is as bad as the worst.

    Args:
        columns: For each rung from the lowest: number of a trial -> score, infinite if it diverged.

    Returns:
        The same with the new scores; a rung without a finite score is empty.
    """
    scaled: list[dict[int, float]] = []
    for column in columns:
        finite = {key: value for key, value in column.items() if math.isfinite(value)}
        if not finite:
            scaled.append({})
            continue
        values = np.array(list(finite.values()))
        middle = float(np.median(values))
        unit = middle - float(np.quantile(values, 0.1)) or float(np.abs(values - middle).max()) or 1.0
        units = {key: _compressed((value - middle) / unit) for key, value in finite.items()}
        below = next((one for one in reversed(scaled) if one), {})
        shared = [key for key in units if key in below]
        if len(shared) > 1:
            here, there = (float(np.var([one[key] for key in shared])) for one in (units, below))
            prior = 0.25 / len(shared)  # a quarter of a trial that is spread alike at both
            ratio = math.sqrt((there + prior) / (here + prior))
            units = {key: value * ratio for key, value in units.items()}
        scaled.append(dict.fromkeys(column, max(units.values())) | units)
    return scaled


def _compressed(unit: float) -> float:
    return math.log1p(unit) if unit > 0 else unit
