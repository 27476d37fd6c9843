"""Which parameters made a difference, and which pairs only together, with intervals, from a study's ledger.

Stopped trials have no final score, and those that got to the end are the ones that did well early. So everything is
computed at one rung among all trials that got there, ranks in place of scores; a trial that diverged before it has the
worst rank. Two rungs are of interest: the last that nearly all trials have reached, where nothing was selected, and
the full length, where only survivors are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gcsearch.analysis.results import StudyResults
from gcsearch.statistics import CONFIDENCE

NEARLY_ALL: Final = 0.9
"""Share of the trials that must have reached a rung for it to count as reached by all."""

MIN_TRIALS: Final = 15
"""Trials at a rung that are needed to say what is important there."""

MANY: Final = 10
"""Different values from which on a numeric parameter is a range; with fewer it is a choice among them."""

MIN_CELL: Final = 3
"""Trials that every combination of two parameters' values needs to count."""

NUM_RESAMPLES: Final = 100


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A trial at a rung.

    Attributes:
        params: What was varied.
        loss: Rank of its score among all at the rung, from 0 (best) to 1; equal scores share their mean rank.
    """

    params: Mapping[str, Any]
    loss: float


Coded = Mapping[str, tuple[str, float | str]]
"""A trial's parameters: the choices that brought each along, and its value, a place from 0 to 1 or a word."""

Measure = Callable[[Sequence[int]], Mapping[str, float]]
"""Importance of each parameter among some trials, given by number: not negative, on any scale that all share."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How important a parameter is.

    Attributes:
        metric: For which objective, e.g. ``fid``.
        key: The parameter.
        images: The rung.
        share: Its share of the importance of all parameters, from 0 to 1.
        low: Lower end of its 95 % bootstrap interval, over trials.
        high: Upper end.
        num_trials: Trials at the rung that have the parameter.
    """

    metric: str
    key: str
    images: int
    share: float
    low: float
    high: float
    num_trials: int


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """What two parameters do together beyond what each does alone.

    Attributes:
        metric: In which objective, e.g. ``fid``.
        first: One parameter.
        second: The other.
        images: The rung.
        share: Share of the variance of the trials' ranks that their combination explains beyond the sum of their
            separate effects.
        p: Chance of at least that share without an interaction (F test), times the number of pairs that were looked
            at and are no less likely (Holm's correction), at most 1.
        num_trials: Trials that counted.
    """

    metric: str
    first: str
    second: str
    images: int
    share: float
    p: float
    num_trials: int


def observations(results: StudyResults, images: int) -> list[Observation]:
    """Trials of the search at a rung, those that diverged before it included as the worst."""
    params, losses = [], []
    for record in results.searched():
        value = record.value_at(results.metric, images)
        if value is not None:
            params.append(record.params)
            losses.append(value if results.lower_is_better else -value)
        elif record.state == "diverged" and record.images < images:
            params.append(record.params)
            losses.append(np.inf)
    if not losses:
        return []
    ranks = (stats.rankdata(losses) - 1) / max(1, len(losses) - 1)
    return [Observation(params=one, loss=float(rank)) for one, rank in zip(params, ranks, strict=True)]


def common_rung(results: StudyResults) -> int | None:
    """The last rung that nearly all trials have reached; None if there is none."""
    records = [record for record in results.searched() if record.state != "failed"]
    rungs = {result.images for record in records for result in record.results}
    return max((rung for rung in rungs if len(observations(results, rung)) >= NEARLY_ALL * len(records)), default=None)


def telling_rungs(results: StudyResults) -> list[int]:
    """The last rung that nearly all trials have reached, then the full length; only those with enough trials."""
    rungs = [common_rung(results), int(results.state.study["horizon_images"])]
    scored = {rung: sum(record.at(rung) is not None for record in results.searched()) for rung in rungs if rung}
    return [rung for rung, num in scored.items() if num >= MIN_TRIALS]


def importances(
    results: StudyResults, prepare: Callable[[Sequence[Coded], Sequence[float]], Measure]
) -> list[Importance]:
    """Importance of every parameter at each telling rung, the most important first; empty with too few trials.

    Args:
        results: The study, with scores of the objective in question.
        prepare: Makes the measure from all trials at a rung and their losses; it is called for all of them, and for
            each of the bootstrap's resamples.
    """
    return [one for images in telling_rungs(results) for one in _importances(results, prepare, images)]


def _importances(
    results: StudyResults, prepare: Callable[[Sequence[Coded], Sequence[float]], Measure], images: int
) -> list[Importance]:
    seen = observations(results, images)
    keys = varied(seen)
    measure = prepare(coded(seen, keys), [one.loss for one in seen])
    shares = _shares(measure(range(len(seen))), keys)
    picks = np.random.default_rng(0).integers(len(seen), size=(NUM_RESAMPLES, len(seen)))
    resampled = [_shares(measure(pick.tolist()), keys) for pick in picks]
    tail = (1 - CONFIDENCE) / 2
    found = []
    for key in keys:
        low, high = np.quantile([one[key] for one in resampled], [tail, 1 - tail])
        num = sum(key in one.params for one in seen)
        found.append(
            Importance(
                metric=results.objective["metric"],
                key=key,
                images=images,
                share=shares[key],
                low=float(low),
                high=float(high),
                num_trials=num,
            )
        )
    return sorted(found, key=lambda one: -one.share)


def varied(seen: Sequence[Observation]) -> list[str]:
    """Parameters that have more than one value."""
    keys = dict.fromkeys(key for one in seen for key in one.params)
    return [key for key in keys if len({str(one.params[key]) for one in seen if key in one.params}) > 1]


def coded(seen: Sequence[Observation], keys: Sequence[str]) -> list[Coded]:
    """The trials with numbers as places and everything else as words."""
    table: list[dict[str, tuple[str, float | str]]] = [{} for _ in seen]
    none = [None] * len(seen)
    for key in keys:
        where = places(seen, key) if is_range([one.params[key] for one in seen if key in one.params]) else none
        for row, one, place in zip(table, seen, where, strict=True):
            if key in one.params:
                value = str(one.params[key]) if place is None else place
                row[key] = (str(parents(key, one.params)), value)
    return list(table)


def _shares(values: Mapping[str, float], keys: Sequence[str]) -> dict[str, float]:
    total = sum(values.get(key, 0.0) for key in keys)
    return {key: values.get(key, 0.0) / total if total > 0 else 0.0 for key in keys}


def is_number(value: Any) -> bool:
    """Whether a parameter's value is a point on a line; true and false are words."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_range(values: Sequence[Any]) -> bool:
    """Whether a parameter with these values is drawn from a range, rather than chosen among a few numbers or words."""
    return all(is_number(value) for value in values) and len(set(values)) >= MANY


def parents(key: str, params: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The choices that brought a parameter along, e.g. ``optimizer = lion`` for `optimizer.lr`."""
    return tuple((other, str(value)) for other, value in params.items() if key.startswith(f"{other}."))


def places(seen: Sequence[Observation], key: str) -> list[float | None]:
    """Where each trial's value of a numeric parameter lies among those of trials with the same parents.

    Mid-ranks between 0 and 1, so that neither a logarithmic scale nor another range under another choice matters.

    Returns:
        One number a trial; None for one without the parameter.
    """
    found: list[float | None] = [None] * len(seen)
    groups: dict[Any, list[int]] = {}
    for index, one in enumerate(seen):
        if key in one.params:
            groups.setdefault(parents(key, one.params), []).append(index)
    for indices in groups.values():
        ranks = (stats.rankdata([seen[index].params[key] for index in indices]) - 0.5) / len(indices)
        for index, rank in zip(indices, ranks, strict=True):
            found[index] = float(rank)
    return found


def interactions(results: StudyResults) -> list[Interaction]:
    """All pairs of parameters at the first telling rung, the strongest interaction first; empty with too few trials.

    Two-way analysis of variance of ranks: a number counts as low or high, by the median of its range. The model with a
    mean for every combination is compared with the one in which the two effects add up.
    """
    for images in telling_rungs(results)[:1]:
        seen = observations(results, images)
        levels = {key: _levels(seen, key) for key in varied(seen)}
        pairs = [
            (first, second)
            for first, second in combinations(levels, 2)
            if not second.startswith(f"{first}.") and not first.startswith(f"{second}.")
        ]
        tested = [(pair, test) for pair in pairs if (test := _two_way(seen, *(levels[key] for key in pair)))]
        adjusted = _holm([p for _, (_, p, _) in tested])
        found = [
            Interaction(
                metric=results.objective["metric"],
                first=pair[0],
                second=pair[1],
                images=images,
                share=share,
                p=p,
                num_trials=num,
            )
            for (pair, (share, _, num)), p in zip(tested, adjusted, strict=True)
        ]
        return sorted(found, key=lambda one: -one.share)
    return []


def _levels(seen: Sequence[Observation], key: str) -> list[str | None]:
    """Each trial's value as one of a few words; None without the parameter."""
    values = [one.params[key] for one in seen if key in one.params]
    if is_range(values):
        return [None if place is None else "high" if place > 0.5 else "low" for place in places(seen, key)]
    return [str(one.params[key]) if key in one.params else None for one in seen]


def _two_way(
    seen: Sequence[Observation], first: Sequence[str | None], second: Sequence[str | None]
) -> tuple[float, float, int] | None:
    """Share of variance, p and number of trials; None if the combinations are too few to tell."""
    known = [index for index in range(len(seen)) if first[index] is not None and second[index] is not None]
    cells: dict[tuple[Any, Any], list[int]] = {}
    for index in known:
        cells.setdefault((first[index], second[index]), []).append(index)
    cells = {cell: members for cell, members in cells.items() if len(members) >= MIN_CELL}
    known = [index for members in cells.values() for index in members]
    names = [cell for cell, members in cells.items() for _ in members]
    if len(known) < MIN_TRIALS:
        return None
    ranks = stats.rankdata([seen[index].loss for index in known])
    additive = np.hstack([_indicators([cell[place] for cell in names]) for place in (0, 1)])
    full = _indicators([str(cell) for cell in names])
    rest_additive, rank_additive = _residual(additive, ranks)
    rest_full, rank_full = _residual(full, ranks)
    extra, freedom = rank_full - rank_additive, len(known) - rank_full
    total = float(((ranks - ranks.mean()) ** 2).sum())
    if extra < 1 or freedom < 1 or total == 0 or rest_full <= 0:
        return None
    gain = max(0.0, rest_additive - rest_full)
    p = float(stats.f.sf(gain / extra / (rest_full / freedom), extra, freedom))
    return gain / total, p, len(known)


def _indicators(values: Sequence[str]) -> NDArray[np.float64]:
    """One column for each value."""
    names, codes = np.unique(values, return_inverse=True)
    return np.eye(len(names))[codes]


def _residual(columns: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, int]:
    """Sum of squares that columns leave of a target, and their rank."""
    solution, _, rank, _ = np.linalg.lstsq(columns, target, rcond=None)
    return float(((target - columns @ solution) ** 2).sum()), int(rank)


def _holm(chances: Sequence[float]) -> list[float]:
    """Holm's correction for several tests."""
    adjusted, worst = [0.0] * len(chances), 0.0
    for place, index in enumerate(np.argsort(chances)):
        worst = max(worst, min(1.0, (len(chances) - place) * chances[index]))
        adjusted[index] = worst
    return adjusted
