"""Verdicts on a family of paired comparisons, at one look or several, with the error rate kept.

Better or worse: a claim that there is a difference. Over all claims of a family, looked at as often as planned, the
chance of one or more false ones is at most 5 %. Equivalent: a claim that there is none beyond the margin; these are a
family of their own, with its own 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gcsearch.statistics.paired import Comparison, Margin, Paired, compare

ALPHA: Final = 0.05

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on one comparison.

    Attributes:
        verdict: ``better`` (lower), ``worse``, ``equivalent`` (inside the margin) or ``inconclusive``.
        comparison: What it rests on: the pairs up to the look that decided, or all of them.
        num: Pairs in it.
        look: Number of pairs at which it was decided; None as long as it is inconclusive.
        p_adjusted: Of the difference, corrected for the family (Holm) at the last look that was made.
    """

    verdict: Verdict
    comparison: Comparison
    num: int
    look: int | None
    p_adjusted: float


def spending(looks: Sequence[int], alpha: float = ALPHA) -> list[float]:
    """Error rate for each look: in proportion to the seeds that are new, so that all together are `alpha`.

    By the union bound any such split keeps the rate, whatever the looks have in common.
    """
    before = [0, *looks[:-1]]
    return [alpha * (now - then) / looks[-1] for now, then in zip(looks, before, strict=True)]


def judge(
    family: Mapping[str, Paired], margin: Margin, looks: Sequence[int], alpha: float = ALPHA
) -> dict[str, Judgement]:
    """Verdicts on a family.

    At each look the comparisons that are still open are judged on the seeds up to there, by Holm's procedure at that
    look's share of the error rate. What was rejected before no longer counts in the family, so a rejection passes its
    share on (Ye et al. 2013, group sequential Holm); what was found equivalent still does.

    Args:
        family: Comparison to pairs, in the order of the seeds.
        margin: Differences below this count as none.
        looks: Numbers of pairs at which is judged, increasing. A comparison with fewer is not judged there.
        alpha: Error rate of the family, for claims of difference and for claims of equivalence each.

    Source: Holm 1979; Schuirmann 1987 (two one-sided tests).
    """
    found: dict[str, Judgement] = {}
    adjusted = dict.fromkeys(family, 1.0)
    counts: dict[Verdict, int] = {"better": 0, "worse": 0, "equivalent": 0, "inconclusive": 0}
    for look, level in zip(looks, spending(looks, alpha), strict=True):
        ready = [name for name, pairs in family.items() if name not in found and len(pairs.gaps) >= look]
        if not ready:
            continue
        comparisons = {name: compare(family[name].first(look), margin) for name in ready}
        num_different = len(family) - counts["better"] - counts["worse"]
        num_equivalent = len(family) - counts["equivalent"]
        different = _holm({name: one.p_different for name, one in comparisons.items()}, num_different)
        equivalent = _holm({name: one.p_equivalent for name, one in comparisons.items()}, num_equivalent)
        for name, one in comparisons.items():
            adjusted[name] = different[name]
            verdict: Verdict = "inconclusive"
            if equivalent[name] <= level:
                verdict = "equivalent"
            elif different[name] <= level:
                verdict = "better" if one.gap.mean < 0 else "worse"
            if verdict != "inconclusive":
                counts[verdict] += 1
                found[name] = Judgement(
                    verdict=verdict, comparison=one, num=look, look=look, p_adjusted=different[name]
                )
    for name, pairs in family.items():
        if name not in found and pairs.gaps:
            found[name] = Judgement(
                verdict="inconclusive",
                comparison=compare(pairs, margin),
                num=len(pairs.gaps),
                look=None,
                p_adjusted=adjusted[name],
            )
    return {name: found[name] for name in family if name in found}


def _holm(p_values: Mapping[str, float], size: int) -> dict[str, float]:
    """Adjusted p values in a family of which the rest is not judged now: max over j <= i of (size - j) p_(j), j from 0.

    By hand, since the import of statsmodels takes longer than a command should.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for position, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, (size - position) * p_values[name])
        adjusted[name] = min(1.0, highest)
    return adjusted
