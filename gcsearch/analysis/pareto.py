"""The front of a study of several objectives."""

from __future__ import annotations

from typing import Any

from gcsearch.analysis.results import StudyResults
from gcsearch.ledger import TrialRecord
from gcsearch.pareto import front_ranks


def objectives_of(results: StudyResults) -> list[dict[str, Any]]:
    """All objectives of a study, each with its `key`, `goal` and `use`; the first is the one trials are listed by."""
    return list(results.state.study.get("objectives") or [results.state.study["objective"]])


def pareto_front(results: StudyResults) -> list[TrialRecord]:
    """Completed trials that no other completed trial dominates, best in the first objective first.

    With one objective these are the best trials. A trial that lacks a value of an objective is on no front.
    """
    objectives = objectives_of(results)
    points = []
    for record in results.state.of_state("completed"):
        losses = [_loss(record, objective) for objective in objectives]
        if record.kind == "trial" and None not in losses:
            points.append((losses, record))
    ranks = front_ranks([losses for losses, _ in points])
    front = [point for point, rank in zip(points, ranks, strict=True) if rank == 0]
    return [record for _, record in sorted(front, key=lambda point: point[0])]


def _loss(record: TrialRecord, objective: dict[str, Any]) -> float | None:
    lower_is_better = objective["goal"] == "minimize"
    value = record.value(objective["key"], objective["use"], lower_is_better)
    return value if value is None or lower_is_better else -value
