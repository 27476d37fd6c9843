"""What may be wrong with a study, seen from its ledger."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import stats

from gcsearch.analysis.results import StudyResults
from gcsearch.config import Document, Experiment, read_document
from gcsearch.errors import ConfigError
from gcsearch.ledger import TrialRecord

EDGE: Final = 0.05
"""Share of a range, at each end, that counts as its edge."""

DIVERGED: Final = 0.2
"""Share of trials from which on divergence is worth a word."""

MIN_TRIALS: Final = 15
"""Trials at one rung that are needed to say that a parameter has no effect."""

NO_EFFECT: Final = 0.5
"""Chance of differences as large without any effect, from which on none is seen."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to look at.

    Attributes:
        kind: ``edge``, ``diverged``, ``no_effect`` or ``duplicates``.
        key: The parameter, if it is about one.
        text: What is the matter and what to do.
    """

    kind: str
    key: str | None
    text: str


def findings(results: StudyResults) -> list[Finding]:
    """All that is worth a look, most serious first."""
    return [*_diverged(results), *_edges(results), *_without_effect(results), *_duplicates(results)]


def _diverged(results: StudyResults) -> Iterator[Finding]:
    trials = results.searched()
    diverged = [record for record in trials if record.state == "diverged"]
    if len(diverged) >= 2 and len(diverged) > DIVERGED * len(trials):
        common = _common(diverged, [record for record in trials if record.state != "diverged"])
        text = f"{len(diverged)} of {len(trials)} trials diverged{common}. A narrower space saves their cost."
        yield Finding(kind="diverged", key=None, text=text)


def _common(ours: Sequence[TrialRecord], others: Sequence[TrialRecord]) -> str:
    """What sets some trials apart: an option that all of them have, or a number beyond that of all others."""
    for key in ours[0].params:
        mine, theirs = (
            [record.params[key] for record in records if key in record.params] for records in (ours, others)
        )
        if len(mine) < len(ours) or not theirs:
            continue
        if all(_is_number(value) for value in [*mine, *theirs]):
            if min(mine) > max(theirs):
                return f", all with {key} of {min(mine):.3g} or more"
            if max(mine) < min(theirs):
                return f", all with {key} of {max(mine):.3g} or less"
        elif len(set(mine)) == 1 and mine[0] not in theirs:
            return f", all with {key} {mine[0]}"
    return ""


def _edges(results: StudyResults) -> Iterator[Finding]:
    """Best value at an end of its range, where the range could go on: a bound of the recipe itself is no warning."""
    path = results.directory / "study.yaml"
    winner = results.winner()
    if winner is None or not path.exists():
        return
    space = read_document(path).data["space"]
    for key, value in winner.params.items():
        found = range_of(space, key, winner.params)
        if found is None or not _is_number(value):
            continue
        low, high, is_log = found
        place = _place(value, low, high, is_log)
        is_low = place < EDGE
        if EDGE <= place <= 1 - EDGE:
            continue
        end = low if is_low else high
        further = _beyond(low, high, is_log=is_log, is_low=is_low)
        if _is_legal(winner.config, key, further):
            word = "min" if is_low else "max"
            text = f"{key} is best at {value:.3g}, the edge of its range [{low:g}, {high:g}]"
            yield Finding(kind="edge", key=key, text=f"{text}: move {word} beyond {end:g}.")


def range_of(space: Mapping[str, Any], key: str, params: Mapping[str, Any]) -> tuple[float, float, bool] | None:
    """Ends of a parameter's range, and whether it is logarithmic, in a space as written; None if it has none."""
    for entry, node in space.items():
        if key != entry and not key.startswith(f"{entry}."):
            continue
        for part in filter(None, key[len(entry) :].split(".")):
            options = node.get("values", ()) if isinstance(node, Mapping) else ()
            inner = [option for option in options if isinstance(option, Mapping) and part in option]
            chosen = str(params.get(entry, "")).split("(")[0]
            named = [option for option in inner if option.get("name") == chosen]
            if not inner:
                return None
            node = (named or inner)[0][part]
        if isinstance(node, Mapping) and "min" in node:
            return float(node["min"]), float(node["max"]), node.get("scale") == "log"
    return None


def _place(value: float, low: float, high: float, is_log: bool) -> float:
    """Where a value lies in its range, from 0 to 1."""
    if is_log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return float((value - low) / (high - low))


def _beyond(low: float, high: float, *, is_log: bool, is_low: bool) -> float:
    """A value a little outside of a range."""
    if is_log:
        factor = math.exp(0.1 * math.log(high / low))
        return low / factor if is_low else high * factor
    step = 0.1 * (high - low)
    value = low - step if is_low else high + step
    if low == int(low) and high == int(high):
        return float(math.floor(value) if is_low else math.ceil(value))
    return value


def _is_legal(config: dict[str, Any], key: str, value: float) -> bool:
    """Whether the recipe can be built with another value."""
    document = Document(config, "health")
    try:
        known: Any = config
        for part in key.split("."):
            known = known[part]
        Experiment.from_document(document.with_values({key: int(value) if isinstance(known, int) else value}, "health"))
    except (ConfigError, KeyError, TypeError):
        return False
    return True


def _without_effect(results: StudyResults) -> Iterator[Finding]:
    """Parameters that make no difference to any objective at the latest rung that enough trials have reached."""
    records = [record for record in results.searched() if record.results]
    rungs = Counter(result.images for record in records for result in record.results)
    known = [images for images, count in rungs.items() if count >= MIN_TRIALS]
    if not known:
        return
    images, metrics = max(known), {one["key"] for one in results.objectives}
    for key in dict.fromkeys(key for record in records for key in record.params):
        pairs = [
            (record.params[key], result.metrics)
            for record in records
            if key in record.params and (result := record.at(images)) and metrics <= result.metrics.keys()
        ]
        if len(pairs) < MIN_TRIALS:
            continue
        values = [value for value, _ in pairs]
        chances = [_chance(values, [scores[metric] for _, scores in pairs]) for metric in metrics]
        chance = min(0.0 if one is None else one for one in chances)
        if chance > NO_EFFECT:
            seen = f"{len(pairs)} trials, p = {chance:.2f}"
            text = f"{key}: no effect seen at {images:,} images ({seen}). If more trials show none, fix it."
            yield Finding(kind="no_effect", key=key, text=text)


def _chance(values: Sequence[Any], scores: Sequence[float]) -> float | None:
    """p-value of the Kruskal-Wallis test over a parameter's options, or thirds of its range; None if it cannot say.

    Thirds, not a correlation: an optimum in the middle is an effect too.
    """
    if all(_is_number(value) for value in values) and len(set(values)) > 3:
        ends = np.quantile(np.asarray(values, dtype=np.float64), [1 / 3, 2 / 3])
        values = list(np.searchsorted(ends, np.asarray(values, dtype=np.float64)))
    groups = [
        [score for one, score in zip(values, scores, strict=True) if one == value] for value in dict.fromkeys(values)
    ]
    groups = [group for group in groups if len(group) >= 3]
    if len(groups) < 2 or len({score for group in groups for score in group}) < 2:
        return None
    return float(stats.kruskal(*groups).pvalue)


def _duplicates(results: StudyResults) -> Iterator[Finding]:
    recipes: dict[str, list[str]] = {}
    for record in results.searched():
        if record.recipe:
            recipes.setdefault(record.recipe, []).append(record.trial)
    same = [trials for trials in recipes.values() if len(trials) > 1]
    if same:
        num = sum(len(trials) - 1 for trials in same)
        examples = "; ".join(", ".join(trials) for trials in same[:3])
        text = f"Repeated with the same seed: {num} of the trials ({examples}). A small space is used up."
        yield Finding(kind="duplicates", key=None, text=text)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
