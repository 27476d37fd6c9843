"""Scores of a study's trials at its rungs, by groups of trials that are compared with each other.

Every decision needs them, so they are kept up with the ledger instead of being collected each time: the work of a study
grows with its results, not with results times trials.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from gcsearch.ledger import RungResult, StudyState, TrialRecord
from gcsearch.pareto import places
from gcsearch.tuning.settings import Objective

Losses = tuple[float, ...]
"""One number for each objective; lower is better."""


@dataclass(kw_only=True)
class _Column:
    """Trials of one group that have reached one rung, in order of their results."""

    records: list[TrialRecord] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)
    losses: dict[str, Losses] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


class Standings:
    """Who has reached which rung of a study, and with what score.

    With one objective a score is the loss, with several it is the place among the trials of the same group and rung
    (see `gcsearch.pareto.places`).

    Args:
        state: The study. Events may be added to it later; they are taken in at the next question.
        objectives: What is minimised or maximised.
        rungs: Images of all evaluations.
        within: Key of the parameters inside which trials are compared; None compares all.
        is_settling: Whether a trial's score at some images is not to be judged.
    """

    def __init__(
        self,
        state: StudyState,
        objectives: tuple[Objective, ...],
        rungs: tuple[int, ...],
        within: str | None,
        is_settling: Callable[[TrialRecord, int], bool],
    ) -> None:
        self.state = state
        self.objectives = objectives
        self.rungs = frozenset(rungs)
        self.within = within
        self.is_settling = is_settling
        self._columns: dict[tuple[int, Any], _Column] = {}
        self._taken_in: dict[int, int] = {}

    def group(self, record: TrialRecord) -> Any:
        """Value that a trial shares with those it is compared with."""
        return record.params.get(self.within) if self.within else None

    def reached(self, images: int, group: Any) -> list[TrialRecord]:
        """Trials of a group with a result at a rung."""
        return self._column(images, group).records

    def scores(self, images: int, group: Any, until: int | None = None) -> Mapping[str, float]:
        """Scores of a group at a rung; infinite for trials that diverged on the way to it.

        Args:
            images: The rung.
            group: Which trials.
            until: Number of the ledger's event after which nothing counts; None counts all.
        """
        column = self._column(images, group)
        count = len(column.orders) if until is None else bisect_right(column.orders, until)
        diverged = [
            record.trial
            for record in self.state.diverged.values()
            if record.kind == "trial"
            and record.images < images
            and images in self.rungs
            and self.group(record) == group
            and (until is None or (record.ended_order or 0) <= until)
        ]
        if len(self.objectives) == 1:
            known: Mapping[str, float] = column.scores
            if count < len(column.orders):
                known = dict(islice(known.items(), count))
            return {**known, **dict.fromkeys(diverged, math.inf)} if diverged else known
        losses = dict(islice(column.losses.items(), count))
        return ranked(losses | dict.fromkeys(diverged, (math.inf,) * len(self.objectives)))

    def _column(self, images: int, group: Any) -> _Column:
        results = self.state.reached.get(images, [])
        begin = self._taken_in.get(images, 0)
        if begin < len(results):
            for record, result in islice(results, begin, None):
                if record.kind == "trial":
                    self._take_in(record, result)
            self._taken_in[images] = len(results)
        return self._columns.get((images, group)) or _Column()

    def _take_in(self, record: TrialRecord, result: RungResult) -> None:
        losses = losses_of(result, self.objectives)
        column = self._columns.setdefault((result.images, self.group(record)), _Column())
        column.records.append(record)
        if losses is None or (math.isfinite(losses[0]) and self.is_settling(record, result.images)):
            return
        column.orders.append(result.order)
        column.losses[record.trial] = losses
        column.scores[record.trial] = losses[0]


class ScoreTable(Mapping[int, Mapping[str, float]]):
    """Scores of comparable trials by rung, each rung looked up when it is asked for.

    Args:
        standings: All scores.
        rungs: All rungs.
        group: Which trials.
        until: Number of the ledger's event after which nothing counts; None counts all.
    """

    def __init__(self, standings: Standings, rungs: Collection[int], group: Any, until: int | None) -> None:
        self._standings = standings
        self._rungs = rungs
        self._group = group
        self._until = until
        self._known: dict[int, Mapping[str, float]] = {}

    def __getitem__(self, images: int) -> Mapping[str, float]:
        if images not in self._known:
            is_rung = images in self._rungs
            self._known[images] = self._standings.scores(images, self._group, self._until) if is_rung else {}
        if not self._known[images]:
            raise KeyError(images)
        return self._known[images]

    def __iter__(self) -> Iterator[int]:
        return (rung for rung in self._rungs if rung in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def losses_of(result: RungResult, objectives: tuple[Objective, ...]) -> Losses | None:
    """Objectives of one result; None if one is missing."""
    values = []
    for objective in objectives:
        value = result.metrics.get(objective.key)
        if value is None:
            return None
        values.append(objective.loss(value))
    return tuple(values)


def ranked(losses: Mapping[str, Losses]) -> dict[str, float]:
    """One number for each trial of a rung: its only loss, or its place among all as a share; infinite if diverged."""
    if all(len(one) == 1 for one in losses.values()):
        return {trial: one[0] for trial, one in losses.items()}
    share = places(list(losses.values())) / len(losses)
    return {
        trial: float(place) if math.isfinite(one[0]) else math.inf
        for (trial, one), place in zip(losses.items(), share, strict=True)
    }
