"""The question of a study and its answer: who won, by how much, how sure that is, and what it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from scipy import stats

from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import (
    duration_text,
    front_text,
    images_text,
    interval_text,
    metric_title,
    objective_title,
    objectives_text,
    parameters_text,
    verdict_text,
)
from gcsearch.selection import Selection
from gcsearch.statistics import CONFIDENCE, RETRAINING_NOISE
from gcsearch.tracking.names import short_names

MAX_FRONT: Final = 8
"""Members of a front that are told one by one."""

LUCK: Final = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(2) * max(RETRAINING_NOISE)
"""Relative difference of two FIDs that trainings with different seeds alone reach, in 19 cases of 20."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a hurried reader should know.

    Attributes:
        question: What the study asked.
        headline: The answer in a sentence.
        facts: Name and text of: the recipe, by how much, how sure, at what cost.
    """

    question: str
    headline: str
    facts: tuple[tuple[str, str], ...]


def answer(results: StudyResults) -> Answer:
    """The answer as far as the study has one."""
    names = [name for name in short_names(results.keys).values()]
    what = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
    better = "lowest" if results.lower_is_better else "highest"
    question = f"Which recipe trains to the {better} {metric_title(results)}, when {what} may vary?"
    if not what:
        question = f"Which {metric_title(results)} does this recipe train to?"
    selection = results.selection
    if results.has_front:
        titles = [objective_title(results, one) for one in results.objectives]
        question = f"Which recipes are best in {' and '.join(titles)} together, when {what} may vary?"
        headline, facts = _of_front(results, selection)
    elif selection is not None:
        headline, facts = verdict_text(selection), _of_finalists(results, selection)
    else:
        headline, facts = _of_search(results)
    if not results.state.ended and (selection is None or selection.is_final):
        headline += " The study is not over: this is its state so far."
    return Answer(question=question, headline=headline, facts=(*facts, ("At what cost", _cost(results))))


def _of_front(results: StudyResults, selection: Selection | None) -> tuple[str, list[tuple[str, str]]]:
    headline = front_text(results) if selection is None or not selection.front else verdict_text(selection)
    facts = [
        (f"Trial {record.trial}", f"{objectives_text(results, record)}: {parameters_text(record.params, results.keys)}")
        for record in results.front()[:MAX_FRONT]
    ]
    if selection is None:
        sure = (
            "Not known. Each trial is one training with one seed, and the front collects the lucky ones. This line in "
            "the study file would tell: finalists: {top: 3, seeds: [1, 2, 3]}"
        )
    else:
        sure = (
            "Means over fresh seeds decide which recipes are on the front; one that is nowhere clearly worse than a "
            "member of it is named as within noise."
        )
    return headline, [*facts, ("How sure", sure)]


def _of_finalists(results: StudyResults, selection: Selection) -> list[tuple[str, str]]:
    winner = selection.winner
    if winner is None or winner.interval is None:
        return []
    facts = [("The recipe", parameters_text(results.state.trials[winner.candidate].params, results.keys))]
    others = [recipe for recipe in selection.recipes if recipe is not winner and recipe.is_complete and recipe.interval]
    if others and others[0].interval is not None and selection.margin is not None:
        gap = others[0].interval.mean - winner.interval.mean
        gap = gap if results.lower_is_better else -gap
        share = f" ({100 * gap / abs(others[0].interval.mean):.1f} %)" if others[0].interval.mean else ""
        word = "better" if gap >= 0 else "worse"
        facts.append(
            (
                "By how much",
                f"Its mean is {abs(gap):.3f}{share} {word} than that of the next recipe ({others[0].candidate}); "
                f"differences beyond ± {selection.margin:.3f} are beyond noise at 95 %.",
            )
        )
    is_clear = len(selection.ties) <= 1
    complete = "" if selection.is_final else " that has all its scores"
    num = len(winner.seeds)
    sure = f"Mean over {num} seeds that the search never saw: {interval_text(winner)}, 95 % t interval. "
    sure += (
        f"No other recipe{complete} is within noise of it."
        if is_clear
        else f"{len(selection.ties)} recipes cannot be told apart with {num} seeds; among them, one that is clearly "
        "cheaper to train wins."
    )
    facts.append(("How sure", sure))
    searched = results.value(results.state.trials[winner.candidate])
    if searched is not None:
        fewer = "one seed, the one that chose it, and on fewer samples"
        facts.append(("In the search", f"The same recipe had {searched:.3f} there ({fewer})."))
    return facts


def _of_search(results: StudyResults) -> tuple[str, list[tuple[str, str]]]:
    ranking = results.ranking()
    if not ranking:
        counts = ", ".join(f"{num} {state}" for state, num in results.counts().items()) or "none has begun"
        return f"There is no answer: no trial has come to full length with a score ({counts}).", []
    best = ranking[0]
    value = results.value(best)
    assert value is not None
    headline = (
        f"Best trial: {best.trial}, {metric_title(results)} {value:.3f}. It is one training with one seed, not a "
        "proven winner: no finalists were trained."
    )
    facts = [("The recipe", parameters_text(best.params, results.keys))] if results.keys else []
    if len(ranking) > 1:
        second = results.value(ranking[1])
        assert second is not None
        gap = abs(second - value)
        share = f" ({100 * gap / abs(second):.1f} %)" if second else ""
        facts.append(("By how much", f"{gap:.3f}{share} ahead of the next one ({ranking[1].trial})."))
    if len(results.searched()) == 1:
        return headline, [*facts, ("How sure", "Not known: a training with another seed would have another score.")]
    sure = f"Not known. The best of {len(results.searched())} trials is partly the luckiest, so its score flatters."
    if len(ranking) > 1 and results.metric.removeprefix("eval/") == "fid":
        near = sum(
            abs(other - value) <= LUCK * abs(value)
            for record in ranking[1:]
            if (other := results.value(record)) is not None
        )
        sure += (
            f" Seeds alone can make FIDs differ by {100 * LUCK:.0f} %: {near} of the other {len(ranking) - 1} "
            "full-length trials are as near."
        )
    facts.append(
        ("How sure", f"{sure} This line in the study file would tell: finalists: {{top: 3, seeds: [1, 2, 3]}}")
    )
    return headline, facts


def _cost(results: StudyResults) -> str:
    searched, finalists = results.searched(), results.finalists()
    if not searched:
        return "Nothing yet."
    horizon = int(results.state.study["horizon_images"])
    images = sum(record.images for record in searched)
    hours = sum(record.device_seconds for record in [*searched, *finalists]) / 3600
    text = (
        f"{duration_text(3600 * hours)} of {results.device_word} time. The search: {len(searched)} "
        f"trial{'' if len(searched) == 1 else 's'}, "
        f"{images_text(images)} images, {100 * images / (len(searched) * horizon):.0f} % of what they would have seen "
        "at full length."
    )
    if finalists:
        text += f" Finalists: {len(finalists)} trainings, {images_text(sum(one.images for one in finalists))} images."
    return text
