"""The question of an ablation and its answer: what is better, worse or the same, how sure that is, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gcsearch.ablations import Outcome
from gcsearch.analysis.ablation import (
    AblationResults,
    change_text,
    correction_text,
    path_text,
    score_text,
    seeds_saved,
    verdict_text,
)
from gcsearch.analysis.report.answer import Answer
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import duration_text, images_text, metric_title

WORDS: Final = ("better", "worse", "equivalent", "inconclusive", "diverged")
NOT_OVER: Final = " The ablation is not over: this is its state so far."
MOST: Final = 6
"""Contrasts that a fact names."""


def ablation_answer(results: StudyResults, found: AblationResults) -> Answer:
    """The answer as far as the ablation has one."""
    reference = found.plan.arms[0]
    whole = "the recipe with all changes" if reference == "all" else "the baseline"
    question = f"Which of the changes to {whole} change {metric_title(results)}, and by how much?"
    if found.plan.steps:
        question = f"Which changes on the way to the winner make {metric_title(results)} better, and in what order?"
    by_verdict = {word: [one for one in found.main if one.verdict == word] for word in WORDS}
    known = [one for one in found.main if one.judgement is not None]
    facts = [("The reference", f"{reference}: {score_text(found.arms[0])}.")] if found.arms[0].interval else []
    for word, title in zip(WORDS, ("Better", "Worse", "No difference", "Undecided", "Diverged"), strict=True):
        if by_verdict[word]:
            facts.append((title, _listed(by_verdict[word], word)))
    facts += [("How sure", _sure(found, known)), ("At what cost", _cost(results))]
    return Answer(question=question, headline=_headline(results, found, by_verdict), facts=tuple(facts))


def _headline(results: StudyResults, found: AblationResults, by_verdict: dict[str, list[Outcome]]) -> str:
    total = len(found.main)
    if not any(one.judgement for one in found.main) and not by_verdict["diverged"]:
        return "There is no answer yet: no arm and its reference are trained on the same seed."
    words = {"better": "better", "worse": "worse", "equivalent": "no different", "inconclusive": "undecided"}
    counts = [f"{len(by_verdict[word])} {text}" for word, text in words.items() if by_verdict[word]]
    if by_verdict["diverged"]:
        counts.append(f"{len(by_verdict['diverged'])} diverged")
    if found.plan.steps:
        return path_text(found) + ("" if results.state.ended else NOT_OVER)
    text = f"Of {total} contrast{'' if total == 1 else 's'}: {', '.join(counts)}."
    plain = [one for one in by_verdict["better"] if not one.contrast.is_interaction]
    if plain:
        best = min(plain, key=_change)
        text += f" The largest gain: {best.contrast.name}, {change_text(best)}."
    if not results.state.ended:
        text += NOT_OVER
    return text


def _change(outcome: Outcome) -> float:
    assert outcome.judgement is not None
    comparison = outcome.judgement.comparison
    return (comparison.share or comparison.gap).mean


def _listed(outcomes: Sequence[Outcome], word: str) -> str:
    ordered = list(outcomes)
    if word in ("better", "worse"):
        ordered.sort(key=_change, reverse=word == "worse")
    texts = []
    for one in ordered[:MOST]:
        verdict = verdict_text(one)
        note = "" if verdict in (word, "inconclusive") else f" ({verdict.removeprefix('better, ')})"
        texts.append(one.contrast.name + note + ("" if one.judgement is None else f", {change_text(one)}"))
    rest = f"; and {len(ordered) - MOST} more" if len(ordered) > MOST else ""
    return "; ".join(texts) + rest + "."


def _sure(found: AblationResults, known: Sequence[Outcome]) -> str:
    plan = found.plan
    text = (
        f"Over {correction_text(plan)}, the chance of one or more false claims that there is a difference is at most "
        f"5 % (paired t tests, Holm). No difference means within {plan.margin}. Intervals are 95 % for each contrast "
        "alone."
    )
    if plan.steps:
        text += " Each step was trained on seeds of its own, so that what was lucky in one starts anew in the next."
    saved = seeds_saved(known)
    if saved is not None:
        text += f" Without pairing, intervals as narrow would need {max(0, saved):.0f} more seeds (median)."
    if any(one.is_open for one in found.main) and len(plan.looks) == 1 and not plan.steps:
        text += " Undecided is not the same as no difference; --until-decided adds seeds there."
    return text


def _cost(results: StudyResults) -> str:
    records = results.searched()
    if not records:
        return "Nothing yet."
    seconds = sum(record.device_seconds for record in records)
    images = sum(record.images for record in records)
    plural = "" if len(records) == 1 else "s"
    return (
        f"{duration_text(seconds)} of {results.device_word} time: {len(records)} training{plural}, "
        f"{images_text(images)} images."
    )
