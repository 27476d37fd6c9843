"""Trials, scores and durations in words, as the terminal and the report say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gcsearch.analysis.rank_fidelity import RankFidelity
from gcsearch.analysis.results import StudyResults
from gcsearch.fronts import values_of
from gcsearch.ledger import TrialRecord
from gcsearch.selection import Replicates, Selection
from gcsearch.tracking.names import number, short_names


def metric_title(results: StudyResults) -> str:
    """Objective as people call it, with the features behind it, e.g. ``FID (digits features)``."""
    return objective_title(results, results.objective)


def _score_title(results: StudyResults, key: str) -> str:
    first, *rest = key.removeprefix("eval/").split("_")
    name = " ".join([first.upper() if len(first) <= 3 else first, *rest])
    extractor = results.extractor()
    return f"{name} ({extractor} features)" if extractor else name


COST_TITLES: Final = {"cost/train_seconds": "training time (s)", "cost/forward_units": "network evaluations"}


def objective_title(results: StudyResults, objective: Mapping[str, Any]) -> str:
    """Any objective as people call it, with its unit or the features behind it."""
    return COST_TITLES.get(objective["key"]) or _score_title(results, objective["key"])


def objectives_text(results: StudyResults, record: TrialRecord) -> str:
    """A trial with all its objectives, e.g. ``0007 (fid 2.41, train_seconds 31.2)``."""
    pairs = zip(results.objectives, values_of(record, results.objectives), strict=True)
    values = ", ".join(f"{one['metric']} {'-' if value is None else number(value, digits=4)}" for one, value in pairs)
    return f"{record.trial} ({values})"


def advices(results: StudyResults, fidelities: Sequence[RankFidelity]) -> list[str]:
    """What to do about the rungs: a sentence for each objective; one for all that ask for the same."""
    if not results.has_front:
        return [fidelity.advice for fidelity in fidelities]
    same: dict[str, list[str]] = {}
    for objective, fidelity in zip(results.objectives, fidelities, strict=True):
        same.setdefault(fidelity.advice, []).append(objective["metric"])
    return [f"Ranks of {_list(names)}: {advice[0].lower()}{advice[1:]}" for advice, names in same.items()]


def front_text(results: StudyResults) -> str:
    """Which trials are on the front, in a sentence."""
    names = _list([one["metric"] for one in results.objectives])
    front = results.front()
    if not front:
        return f"No front: no trial has come to full length with {names}."
    trials = _list([record.trial for record in front])
    what = "is trial" if len(front) == 1 else "are trials"
    return f"On the front of {names} {what} {trials}: no completed trial is as good in all of them and better in one."


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def state_name(record: TrialRecord) -> str:
    """State of a trial for readers: one that waits for the stopping rule is paused."""
    return "paused" if record.is_paused else record.state


def columns_of(keys: Sequence[str]) -> list[str]:
    """Keys that get a column: those at the root of the space; a component's own parameters go beside its name."""
    return [key for key in keys if not any(key.startswith(f"{other}.") for other in keys if other != key)]


def headings(keys: Sequence[str]) -> list[str]:
    """Short name of each column."""
    columns = columns_of(keys)
    names = short_names(columns)
    return [names[key] for key in columns]


def cells(params: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """One text per column, e.g. ``exponential s1=80`` for `timesteps` and what it brought along."""
    texts = []
    for key in columns_of(keys):
        if key not in params:
            texts.append("-")
            continue
        own = {name: value for name, value in params.items() if name.startswith(f"{key}.")}
        inner = [f"{name[len(key) + 1 :]}={number(value, digits=2)}" for name, value in own.items()]
        texts.append(" ".join([number(params[key], digits=2), *inner]))
    return texts


def parameters_text(params: dict[str, Any], keys: Sequence[str]) -> str:
    """All parameters on one line. Words speak for themselves, numbers need their name."""
    pairs = zip(headings(keys), cells(params, keys), strict=True)
    return ", ".join(value if value[:1].isalpha() else f"{name} {value}" for name, value in pairs)


def interval_text(recipe: Replicates) -> str:
    """Mean over seeds with its interval, e.g. ``2.413 [2.301, 2.525]``; what is missing in words."""
    return _interval(recipe, 0)


def intervals_text(recipe: Replicates) -> list[str]:
    """The same for every objective."""
    return [_interval(recipe, index) for index in range(1 + len(recipe.others))]


def _interval(recipe: Replicates, index: int) -> str:
    if not recipe.is_finite:
        return "diverged on a seed"
    if not recipe.intervals:
        return "-"
    interval = recipe.intervals[index]
    ends = "" if interval.low is None else f" [{interval.low:.3f}, {interval.high:.3f}]"
    return f"{interval.mean:.3f}{ends}"


def verdict_text(selection: Selection) -> str:
    """Who won and why, in a sentence or two."""
    winner = selection.winner
    waiting = "" if selection.is_final else " Not all finalists are trained yet: run the study again."
    if selection.front:
        near = [candidate for candidate in selection.ties if candidate not in selection.front]
        whose = "recipe of trial" if len(selection.front) == 1 else "recipes of trials"
        text = f"On the front of the means over fresh seeds: the {whose} {_list(selection.front)}."
        if near:
            text += f" Within noise of it: {_list(near)}."
        return text + waiting
    if winner is None:
        return f"No winner: no recipe has a score on every fresh seed.{waiting}"
    text = (
        f"Winner: the recipe of trial {winner.candidate}, {interval_text(winner)} over {len(winner.seeds)} fresh seeds."
    )
    others = [candidate for candidate in selection.ties if candidate != winner.candidate]
    if others:
        best = next(recipe for recipe in selection.recipes if recipe.candidate in selection.ties)
        reason = "the best mean" if best is winner else "cheaper to train"
        text += f" Within noise ({selection.margin:.2g}) of {', '.join(others)}; chosen as {reason}."
    return text + waiting


def images_text(images: float) -> str:
    """Number of images, short: 96000 is ``96k``."""
    if images < 1000:
        return f"{images:g}"
    return f"{images / 1000:.0f}k" if images < 10_000_000 else f"{images / 1e6:.1f}M"


def duration_text(seconds: float) -> str:
    """Duration in at most two units, e.g. ``2 min 05 s``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
