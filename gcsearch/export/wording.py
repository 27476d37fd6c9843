"""How an export speaks of a score."""

from __future__ import annotations

from gcsearch.analysis.results import StudyResults
from gcsearch.ledger import TrialRecord
from gcsearch.selection import Replicates


def score_text(results: StudyResults, record: TrialRecord) -> str:
    """The objective with its extractor, e.g. ``FID (digits features) 2.12``."""
    value, extractor = results.value(record), results.extractor()
    name = results.metric.removeprefix("eval/").upper().replace("_", " ")
    return f"{name} ({extractor} features) {value:.4g}" if value is not None else f"no {name}"


def replicates_of(results: StudyResults, record: TrialRecord) -> Replicates | None:
    """The recipe's trainings on fresh seeds, if `record` is one of them and all are done."""
    recipes = results.selection.recipes if results.selection is not None else ()
    found = next((recipe for recipe in recipes if record in recipe.records), None)
    return found if found is not None and found.is_complete and found.is_finite else None


def mean_text(replicates: Replicates) -> str:
    """Mean with its interval, e.g. ``2.41, 95 % interval 2.30 to 2.52, over 3 fresh seeds``."""
    interval = replicates.interval
    assert interval is not None
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4g}, with one fresh seed, so without an interval"
    return (
        f"{interval.mean:.4g}, 95 % interval {interval.low:.4g} to {interval.high:.4g}, over {interval.num} fresh seeds"
    )


def meaning_text(results: StudyResults, record: TrialRecord) -> str:
    """What the score says about the recipe: how sure it is, and whether it flatters."""
    replicates = replicates_of(results, record)
    counts = ", ".join(f"{count} {state}" for state, count in results.counts().items())
    if replicates is not None:
        return (
            f"The recipe's score is **{mean_text(replicates)}**, seeds that the search ({counts}) never saw. Expect "
            "that of another training; these weights are one of those trainings."
        )
    if record.kind == "training":
        return "One training with one seed, so there is no interval over seeds: a fresh seed may score differently."
    if record.kind == "finalist":
        return (
            "One of its recipe's trainings on fresh seeds. Not all of them have a score, so there is no interval over "
            "seeds."
        )
    return (
        f"It comes from one training with one seed, so there is no interval over seeds, and was used to choose this "
        f"trial (study: {counts}): expect a fresh seed to score worse."
    )
