"""Studies of several objectives: what they are, and which trials are on the front."""

from __future__ import annotations

import math
from typing import Any

from gcsearch.ledger import StudyState, TrialRecord
from gcsearch.pareto import front_ranks, places


def objectives_of(state: StudyState) -> list[dict[str, Any]]:
    """All objectives of a study, each with `metric`, `key`, `goal` and `use`; trials are listed by the first."""
    return list(state.study.get("objectives") or [state.study["objective"]])


def values_of(record: TrialRecord, objectives: list[dict[str, Any]]) -> list[float | None]:
    """Value of each objective; None without one."""
    return [record.value(one["key"], one["use"], one["goal"] == "minimize") for one in objectives]


def losses_of(record: TrialRecord, objectives: list[dict[str, Any]]) -> list[float] | None:
    """Objectives with lower always better; None if one has no value."""
    losses = [
        value if value is None or one["goal"] == "minimize" else -value
        for value, one in zip(values_of(record, objectives), objectives, strict=True)
    ]
    return None if None in losses else [loss for loss in losses if loss is not None]


def fronts(state: StudyState) -> dict[str, int]:
    """Front of every completed trial of the search, from 1: nothing dominates a trial on the first.

    Stopped trials are on no front: their scores are those of shorter trainings.
    """
    points = _points(state)
    return {
        record.trial: int(rank) + 1
        for (_, record), rank in zip(points, front_ranks([losses for losses, _ in points]), strict=True)
    }


def by_front(state: StudyState) -> list[TrialRecord]:
    """Completed trials, front by front, in each the best in the first objective first."""
    number = fronts(state)
    points = sorted(_points(state), key=lambda point: (number[point[1].trial], point[0]))
    return [record for _, record in points]


def by_place(state: StudyState) -> list[TrialRecord]:
    """Completed trials, front by front, in each in an order that spreads out: see `gcsearch.pareto.places`."""
    points = _points(state)
    placed = places([losses for losses, _ in points])
    order = sorted(range(len(points)), key=lambda index: int(placed[index]))
    return [points[index][1] for index in order]


def _points(state: StudyState) -> list[tuple[list[float], TrialRecord]]:
    objectives = objectives_of(state)
    points = []
    for record in state.of_state("completed"):
        losses = losses_of(record, objectives)
        if record.kind != "finalist" and losses is not None and all(map(math.isfinite, losses)):
            points.append((losses, record))
    return points
