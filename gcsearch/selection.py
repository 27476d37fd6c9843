"""Who wins: from the finalists of a study, its best recipes trained again on seeds that the search has not seen.

The search's own best score is the luckiest of many trainings, so it flatters and may belong to the wrong recipe. The
winner is decided on the mean over fresh seeds, and its score is that mean. With several objectives there is no winner
but a front, decided on the means too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from gcsearch.fronts import objectives_of, values_of
from gcsearch.ledger import ENDED, StudyState, TrialRecord
from gcsearch.metrics.identity import check_comparable
from gcsearch.pareto import front_ranks
from gcsearch.statistics import Interval, t_interval, tie_margin

CHEAPER: Final = 0.9
"""Share of another recipe's training time from which on one counts as cheaper; less is the clock's own noise."""


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """One recipe on fresh seeds.

    Attributes:
        candidate: The trial of the search that had this recipe first.
        records: Its finalists, by seed.
        values: Objective of each that has one; the worst number there is for one that diverged.
        seeds: Seeds that it is to be trained on.
        seconds: Mean training time of those that completed; None without one.
        others: The same as `values` for each further objective.
    """

    candidate: str
    records: tuple[TrialRecord, ...]
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    seconds: float | None
    others: tuple[tuple[float, ...], ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every seed has its score."""
        return len(self.values) == len(self.seeds)

    @property
    def is_finite(self) -> bool:
        """Whether no seed diverged."""
        return all(math.isfinite(value) for value in self.values)

    @property
    def interval(self) -> Interval | None:
        """Mean of the objective over seeds, with its interval; None without scores, or if a seed diverged."""
        return t_interval(self.values) if self.values and self.is_finite else None

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The same for every objective; empty where `interval` is None."""
        return tuple(t_interval(values) for values in (self.values, *self.others)) if self.interval else ()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the finalists say.

    Attributes:
        recipes: Every recipe that was trained again, the best mean first; incomplete ones last. Of several objectives
            those on the front come first, then the first objective counts.
        winner: The recipe chosen; None as long as no recipe has all its scores, and with several objectives.
        weights: The winner's training with the best score, which is what an export holds.
        margin: Least difference of two means that is beyond noise; None without a winner.
        ties: Candidates whose means are within the margin of the best one, itself included.
            With several objectives: those that no recipe of the front beats beyond noise, the front included.
        is_final: Whether all finalists that were planned have ended.
        front: With several objectives, candidates whose means no other recipe's dominate; the best in the first
            objective first.
    """

    recipes: tuple[Replicates, ...]
    winner: Replicates | None
    weights: TrialRecord | None
    margin: float | None
    ties: tuple[str, ...]
    is_final: bool
    front: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data; a mean that is not finite is left out."""
        return {
            "winner": None if self.winner is None else self.winner.candidate,
            "weights": None if self.weights is None else self.weights.trial,
            "is_final": self.is_final,
            "tie_margin": self.margin,
            "ties": list(self.ties),
            "front": list(self.front),
            "recipes": [
                {
                    "candidate": recipe.candidate,
                    "trials": [record.trial for record in recipe.records],
                    "seeds": list(recipe.seeds),
                    "values": [value if math.isfinite(value) else None for value in recipe.values],
                    "mean": recipe.interval.mean if recipe.interval else None,
                    "low": recipe.interval.low if recipe.interval else None,
                    "high": recipe.interval.high if recipe.interval else None,
                    "means": [interval.mean for interval in recipe.intervals],
                    "train_seconds": recipe.seconds,
                }
                for recipe in self.recipes
            ],
        }


def select(state: StudyState) -> Selection | None:
    """The finalists of a study and who wins; None if it has none.

    The recipe with the best mean wins, unless another one that is within noise of it (see `tie_margin`) was cheaper to
    train. A recipe that diverged on a seed cannot win.

    Raises:
        ScoreError: The finalists' scores have different identities and cannot be compared.
    """
    if state.finalists is None:
        return None
    objectives = objectives_of(state)
    is_lower = objectives[0]["goal"] == "minimize"
    seeds = tuple(state.finalists["seeds"])
    groups: dict[str, list[TrialRecord]] = {candidate: [] for candidate in state.finalists["candidates"]}
    for record in state.trials.values():
        if record.kind == "finalist" and record.candidate is not None and record.seed in seeds:
            groups.setdefault(record.candidate, []).append(record)
    for objective in objectives:
        check_comparable(
            result.identities[objective["key"]]
            for records in groups.values()
            for record in records
            for result in record.results
            if objective["key"] in result.identities
        )
    recipes = [_replicates(candidate, records, seeds, objectives) for candidate, records in groups.items()]

    def order(recipe: Replicates) -> tuple[bool, bool, float]:
        mean = recipe.interval.mean if recipe.interval else math.inf
        return not recipe.is_complete, not recipe.is_finite, mean if is_lower else -mean

    recipes.sort(key=order)
    eligible = [recipe for recipe in recipes if recipe.is_complete and recipe.is_finite]
    ended = all(len(recipe.records) == len(seeds) for recipe in recipes) and all(
        record.state in ENDED for recipe in recipes for record in recipe.records
    )
    if not eligible:
        return Selection(recipes=tuple(recipes), winner=None, weights=None, margin=None, ties=(), is_final=ended)
    if len(objectives) > 1:
        return _front_of(recipes, eligible, objectives, is_final=ended)
    margin = tie_margin([recipe.values for recipe in eligible])
    best = _mean(eligible[0])
    tied = [recipe for recipe in eligible if abs(_mean(recipe) - best) <= margin]
    winner = tied[0]
    cheapest = min(tied, key=lambda recipe: recipe.seconds or math.inf)
    if cheapest.seconds is not None and winner.seconds is not None and cheapest.seconds <= CHEAPER * winner.seconds:
        winner = cheapest
    chosen = min(winner.values) if is_lower else max(winner.values)
    return Selection(
        recipes=tuple(recipes),
        winner=winner,
        weights=winner.records[winner.values.index(chosen)],
        margin=margin,
        ties=tuple(recipe.candidate for recipe in tied),
        is_final=ended,
    )


def _front_of(
    recipes: list[Replicates], eligible: list[Replicates], objectives: list[dict[str, Any]], *, is_final: bool
) -> Selection:
    """The front of the means, and what noise cannot tell from it.

    Args:
        recipes: All, the best first in the first objective.
        eligible: Those of them that have all their scores.
        objectives: The study's.
        is_final: Whether all finalists have ended.
    """
    signs = [1.0 if one["goal"] == "minimize" else -1.0 for one in objectives]
    means = {
        one.candidate: [sign * interval.mean for sign, interval in zip(signs, one.intervals, strict=True)]
        for one in eligible
    }
    margins = [tie_margin([(one.values, *one.others)[index] for one in eligible]) for index in range(len(objectives))]
    ranks = dict(zip(means, front_ranks(list(means.values())), strict=True))
    front = [candidate for candidate, rank in ranks.items() if rank == 0]

    def is_beaten(candidate: str) -> bool:
        """Whether a member of the front is nowhere worse, and better beyond noise somewhere."""
        gaps = [[own - best for own, best in zip(means[candidate], means[one], strict=True)] for one in front]
        return any(
            min(gap) >= 0 and any(one > margin for one, margin in zip(gap, margins, strict=True)) for gap in gaps
        )

    ties = tuple(candidate for candidate in means if not is_beaten(candidate))
    ordered = sorted(recipes, key=lambda recipe: recipe.candidate not in front)
    return Selection(
        recipes=tuple(ordered),
        winner=None,
        weights=None,
        margin=None,
        ties=ties,
        is_final=is_final,
        front=tuple(front),
    )


def _mean(recipe: Replicates) -> float:
    assert recipe.interval is not None
    return recipe.interval.mean


def _replicates(
    candidate: str, records: list[TrialRecord], seeds: tuple[int, ...], objectives: list[dict[str, Any]]
) -> Replicates:
    records = sorted(records, key=lambda record: seeds.index(record.seed))
    worst = [math.inf if objective["goal"] == "minimize" else -math.inf for objective in objectives]
    values: list[list[float]] = []
    seconds = []
    for record in records:
        found = [value for value in values_of(record, objectives) if value is not None]
        if record.state == "diverged":
            values.append(worst)
        elif record.state == "completed" and len(found) == len(objectives):
            values.append(found)
            seconds.append(record.results[-1].metrics.get("cost/train_seconds", 0.0))
    columns = list(zip(*values, strict=True)) or [()] * len(objectives)
    return Replicates(
        candidate=candidate,
        records=tuple(records),
        values=columns[0],
        others=tuple(columns[1:]),
        seeds=seeds,
        seconds=sum(seconds) / len(seconds) if seconds else None,
    )
