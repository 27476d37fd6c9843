"""Who wins: from the finalists of a study, its best recipes trained again on seeds that the search has not seen.

The search's own best score is the luckiest of many trainings, so it flatters and may belong to the wrong recipe. The
winner is decided on the mean over fresh seeds, and its score is that mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from gcsearch.ledger import ENDED, StudyState, TrialRecord
from gcsearch.metrics.identity import check_comparable
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
    """

    candidate: str
    records: tuple[TrialRecord, ...]
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    seconds: float | None

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


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the finalists say.

    Attributes:
        recipes: Every recipe that was trained again, the best mean first; incomplete ones last.
        winner: The recipe chosen; None as long as no recipe has all its scores.
        weights: The winner's training with the best score, which is what an export holds.
        margin: Least difference of two means that is beyond noise; None without a winner.
        ties: Candidates whose means are within the margin of the best one, itself included.
        is_final: Whether all finalists that were planned have ended.
    """

    recipes: tuple[Replicates, ...]
    winner: Replicates | None
    weights: TrialRecord | None
    margin: float | None
    ties: tuple[str, ...]
    is_final: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain data; a mean that is not finite is left out."""
        return {
            "winner": None if self.winner is None else self.winner.candidate,
            "weights": None if self.weights is None else self.weights.trial,
            "is_final": self.is_final,
            "tie_margin": self.margin,
            "ties": list(self.ties),
            "recipes": [
                {
                    "candidate": recipe.candidate,
                    "trials": [record.trial for record in recipe.records],
                    "seeds": list(recipe.seeds),
                    "values": [value if math.isfinite(value) else None for value in recipe.values],
                    "mean": recipe.interval.mean if recipe.interval else None,
                    "low": recipe.interval.low if recipe.interval else None,
                    "high": recipe.interval.high if recipe.interval else None,
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
    objective = state.study["objective"]
    is_lower = objective["goal"] == "minimize"
    seeds = tuple(state.finalists["seeds"])
    groups: dict[str, list[TrialRecord]] = {candidate: [] for candidate in state.finalists["candidates"]}
    for record in state.trials.values():
        if record.kind == "finalist" and record.candidate is not None and record.seed in seeds:
            groups.setdefault(record.candidate, []).append(record)
    check_comparable(
        result.identities[objective["key"]]
        for records in groups.values()
        for record in records
        for result in record.results
        if objective["key"] in result.identities
    )
    recipes = [_replicates(candidate, records, seeds, objective) for candidate, records in groups.items()]

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


def _mean(recipe: Replicates) -> float:
    assert recipe.interval is not None
    return recipe.interval.mean


def _replicates(
    candidate: str, records: list[TrialRecord], seeds: tuple[int, ...], objective: dict[str, Any]
) -> Replicates:
    records = sorted(records, key=lambda record: seeds.index(record.seed))
    is_lower = objective["goal"] == "minimize"
    values, seconds = [], []
    for record in records:
        value = record.value(objective["key"], objective["use"], is_lower)
        if record.state == "diverged":
            values.append(math.inf if is_lower else -math.inf)
        elif record.state == "completed" and value is not None:
            values.append(value)
            seconds.append(record.results[-1].metrics.get("cost/train_seconds", 0.0))
    return Replicates(
        candidate=candidate,
        records=tuple(records),
        values=tuple(values),
        seeds=seeds,
        seconds=sum(seconds) / len(seconds) if seconds else None,
    )
