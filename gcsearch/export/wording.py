"""How an export speaks of a score."""

from __future__ import annotations

from gcsearch.analysis.results import StudyResults
from gcsearch.export.arms import arm_replicates
from gcsearch.ledger import TrialRecord
from gcsearch.selection import Replicates


def score_text(results: StudyResults, record: TrialRecord) -> str:
    """The objective with its extractor, e.g. ``FID (digits features) 2.12``."""
    value, extractor = results.value(record), results.extractor()
    name = results.metric.removeprefix("eval/").upper().replace("_", " ")
    return f"{name} ({extractor} features) {value:.4g}" if value is not None else f"no {name}"


def replicates_of(results: StudyResults, record: TrialRecord) -> Replicates | None:
    """The recipe's trainings on fresh seeds, or an arm's, if `record` is one of them and all are done."""
    if record.kind == "arm":
        return next((arm for arm in arm_replicates(results) if arm.candidate == record.arm), None)
    recipes = results.selection.recipes if results.selection is not None else ()
    found = next((recipe for recipe in recipes if record in recipe.records), None)
    return found if found is not None and found.is_complete and found.is_finite else None


def mean_text(replicates: Replicates, word: str = "fresh ") -> str:
    """Mean with its interval, e.g. ``2.41, 95 % interval 2.30 to 2.52, over 3 fresh seeds``.

    Args:
        replicates: The trainings.
        word: What the seeds are.
    """
    interval = replicates.interval
    assert interval is not None
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4g}, with one {word}seed, so without an interval"
    return (
        f"{interval.mean:.4g}, 95 % interval {interval.low:.4g} to {interval.high:.4g}, over {interval.num} {word}seeds"
    )


def meaning_text(results: StudyResults, record: TrialRecord) -> str:
    """What the score says about the recipe: how sure it is, and whether it flatters."""
    replicates = replicates_of(results, record)
    counts = ", ".join(f"{count} {state}" for state, count in results.counts().items())
    if record.kind == "arm":
        return choice_text(results, record)
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


def choice_text(results: StudyResults, record: TrialRecord) -> str:
    """Of an ablation: which arm a training is of, how good that is, and why it was chosen."""
    arms = arm_replicates(results)
    own = next((arm for arm in arms if arm.candidate == record.arm), None)
    if own is None:
        return f"One training of the arm '{record.arm}', which did not complete on all seeds: expect others to differ."
    place = arms.index(own) + 1
    rank = "the best mean" if place == 1 else f"mean number {place}"
    values = dict(zip((one.trial for one in own.records), own.values, strict=True))
    best = min(own.values) if results.lower_is_better else max(own.values)
    which = "the best" if values[record.trial] == best else "one"
    return (
        f"The arm '{record.arm}' has {rank} of {len(arms)} arms: **{mean_text(own, '')}**. Expect that of another "
        f"training; these weights are {which} of its {len(own.records)}. What is better for sure, the verdicts say."
    )
