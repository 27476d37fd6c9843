"""What an ablation says, from its ledger: scores of every arm on every seed, contrasts, verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from gcsearch.ledger import StudyState, TrialRecord
from gcsearch.metrics.identity import check_comparable
from gcsearch.statistics import ALPHA, Judgement, Margin, Paired, bootstrap_interval, judge

Axis = Literal["images", "cost/forward_units", "cost/train_seconds"]
"""What arms are given the same amount of when they are compared."""

AXES: Final[tuple[Axis, ...]] = ("images", "cost/forward_units", "cost/train_seconds")

Scores = dict[str, dict[int, float]]
"""Arm to seed to score, lower being better; infinite where the training diverged."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """What is judged on each seed: the sum of the scores of some arms minus that of others.

    Attributes:
        name: What it is about.
        plus: Arms whose scores are added.
        minus: Arms whose scores are subtracted, as many.
        reference: Arm whose mean is the unit of relative differences.
        step: Of a path, the step that judges it, from 0.
    """

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    reference: str
    step: int = 0

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms that it needs."""
        return tuple(dict.fromkeys([*self.plus, *self.minus, self.reference]))

    @property
    def is_interaction(self) -> bool:
        """Whether it asks if two changes do more, or less, together than the sum of what each does alone."""
        return len(self.plus) > 1


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a path from a baseline to a winner.

    Attributes:
        seeds: Seeds of its trainings, which no other step has: what was lucky in one step starts anew in the next.
        share: Its part of the error rate; over all steps that there may be, the parts add up to 1.
    """

    seeds: tuple[int, ...]
    share: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an ablation trains and judges.

    Attributes:
        arms: Names of the recipes, the reference first.
        contrasts: What is judged.
        seeds: Seeds in the order in which they are used.
        looks: Numbers of seeds at which verdicts are made.
        key: Score that is judged, e.g. ``eval/fid``.
        lower_is_better: Its direction.
        margin: Differences below this count as none.
        steps: Of a path, the steps so far; each is a family of contrasts of its own.
    """

    arms: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    seeds: tuple[int, ...]
    looks: tuple[int, ...]
    key: str
    lower_is_better: bool
    margin: Margin
    steps: tuple[Step, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Inverse of `to_dict`."""
        contrasts = (
            Contrast(**one | {side: tuple(one[side]) for side in ("plus", "minus")}) for one in data["contrasts"]
        )
        steps = (Step(seeds=tuple(one["seeds"]), share=one["share"]) for one in data.get("steps", ()))
        return cls(
            arms=tuple(data["arms"]),
            contrasts=tuple(contrasts),
            seeds=tuple(data["seeds"]),
            looks=tuple(data["looks"]),
            key=data["key"],
            lower_is_better=data["lower_is_better"],
            margin=Margin(**data["margin"]),
            steps=tuple(steps),
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is known about one contrast.

    Attributes:
        contrast: The contrast.
        verdict: ``better``, ``worse``, ``equivalent``, ``inconclusive``, or ``diverged`` if a training did on any seed.
            Of an interaction, better means that the two changes are better together than the sum of what they do alone.
        judgement: What the verdict rests on; None without a pair.
        bootstrap: BCa interval of the mean difference, a check on Student's.
        num_diverged: Seeds on which a training of it diverged.
        is_taken: Of a path, whether this is the change that its step took: the best of those that are better.
    """

    contrast: Contrast
    verdict: str
    judgement: Judgement | None
    bootstrap: tuple[float, float] | None
    num_diverged: int
    is_taken: bool = False

    @property
    def is_open(self) -> bool:
        """Whether more seeds could decide it."""
        return self.verdict == "inconclusive"

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        found = self.judgement
        return {
            "verdict": self.verdict,
            "num_seeds": found.num if found else 0,
            "num_diverged": self.num_diverged,
            "is_taken": self.is_taken,
            "gap": asdict(found.comparison.gap) if found else None,
            "share": asdict(found.comparison.share) if found and found.comparison.share else None,
            "bootstrap": list(self.bootstrap) if self.bootstrap else None,
            "p_adjusted": found.p_adjusted if found else None,
            "p_equivalent": found.comparison.p_equivalent if found else None,
            "correlation": found.comparison.correlation if found else None,
            "seeds_saved": found.comparison.seeds_saved if found else None,
        }


def outcomes(plan: Plan, state: StudyState, axis: Axis = "images", num_seeds: int | None = None) -> list[Outcome]:
    """Verdicts on all contrasts.

    Args:
        plan: The ablation's.
        state: Its ledger.
        axis: What arms are given the same amount of: on each seed as much as the arm that used least had in the end.
        num_seeds: Seeds to use, the first of the plan; None uses all. A path uses those of each step.

    Raises:
        ScoreError: Scores have different identities and cannot be compared.
    """
    records = _records(plan, state)
    if not plan.steps:
        return _family(plan, plan.contrasts, records, axis, plan.seeds[:num_seeds], ALPHA)
    found: list[Outcome] = []
    for number, step in enumerate(plan.steps):
        contrasts = [contrast for contrast in plan.contrasts if contrast.step == number]
        of_step = _family(plan, contrasts, records, axis, step.seeds, step.share * ALPHA)
        better = [one for one in of_step if one.verdict == "better"]
        taken = min(better, key=_gain, default=None)
        found += [replace(_for_path(one, step), is_taken=one is taken) for one in of_step]
    return found


def _for_path(outcome: Outcome, step: Step) -> Outcome:
    """With a p value corrected for all steps, so that a claim is one below 5 % here too."""
    found = outcome.judgement
    if found is None:
        return outcome
    return replace(outcome, judgement=replace(found, p_adjusted=min(1.0, found.p_adjusted / step.share)))


def _gain(outcome: Outcome) -> float:
    assert outcome.judgement is not None
    return outcome.judgement.comparison.gap.mean


def _family(
    plan: Plan,
    contrasts: Sequence[Contrast],
    records: Mapping[str, Mapping[int, TrialRecord]],
    axis: Axis,
    seeds: Sequence[int],
    alpha: float,
) -> list[Outcome]:
    """Verdicts on contrasts that share an error rate."""
    looks = [look for look in plan.looks if look <= len(seeds)]
    pairs, diverged = {}, {}
    for contrast in contrasts:
        rows = list(_rows(plan, contrast, records, seeds, axis))
        diverged[contrast.name] = sum(not all(map(math.isfinite, row)) for row in rows)
        if rows and not diverged[contrast.name]:
            gaps, references = zip(*rows, strict=True)
            pairs[contrast.name] = Paired(gaps=gaps, references=references)
    # A contrast without pairs still counts in the family: nobody chose it away before seeing results.
    family = {one.name: pairs.get(one.name, Paired(gaps=(), references=())) for one in contrasts}
    judged = judge(family, plan.margin, looks, alpha)
    return [_outcome(contrast, judged.get(contrast.name), family, diverged) for contrast in contrasts]


def _outcome(
    contrast: Contrast, found: Judgement | None, family: Mapping[str, Paired], diverged: Mapping[str, int]
) -> Outcome:
    num_diverged = diverged[contrast.name]
    return Outcome(
        contrast=contrast,
        verdict="diverged" if num_diverged else found.verdict if found else "inconclusive",
        judgement=found,
        bootstrap=bootstrap_interval(family[contrast.name].first(found.num)) if found else None,
        num_diverged=num_diverged,
    )


def scores(plan: Plan, state: StudyState) -> Scores:
    """Score of every arm on every seed that is through, in the metric's own direction; infinite where it diverged."""
    return {
        arm: {
            seed: value if record.state == "completed" and (value := record.value(plan.key)) is not None else math.inf
            for seed, record in by_seed.items()
        }
        for arm, by_seed in _records(plan, state).items()
    }


def _records(plan: Plan, state: StudyState) -> dict[str, dict[int, TrialRecord]]:
    """Trainings that are through, by arm and seed; failed ones are missing."""
    found: dict[str, dict[int, TrialRecord]] = {arm: {} for arm in plan.arms}
    for record in state.of_state("completed", "diverged"):
        if record.kind == "arm" and record.arm in found and record.seed in plan.seeds:
            found[record.arm][record.seed] = record
    check_comparable(
        result.identities[plan.key]
        for by_seed in found.values()
        for record in by_seed.values()
        for result in record.results
        if plan.key in result.identities
    )
    return found


def _rows(
    plan: Plan,
    contrast: Contrast,
    records: Mapping[str, Mapping[int, TrialRecord]],
    seeds: Sequence[int],
    axis: Axis,
) -> Iterator[tuple[float, float]]:
    """Gap and reference of each seed for which all arms are through."""
    sign = 1.0 if plan.lower_is_better else -1.0
    for seed in seeds:
        if not all(seed in records[arm] for arm in contrast.arms):
            continue
        used = {arm: records[arm][seed] for arm in contrast.arms}
        if any(record.state == "diverged" for record in used.values()):
            yield math.inf, math.inf
            continue
        budget = min(_cost(record.results[-1], axis) for record in used.values())
        at = {arm: score_at(record, plan.key, axis, budget) for arm, record in used.items()}
        gap = sum(at[arm] for arm in contrast.plus) - sum(at[arm] for arm in contrast.minus)
        # A metric of which more is better is judged by its negative, but shares are of its own size.
        yield sign * gap, at[contrast.reference]


def score_at(record: TrialRecord, key: str, axis: Axis, budget: float) -> float:
    """Score of a training when it had used so much.

    Between two evaluations as a power law of the cost, a straight line on two logarithmic axes, which curves of FID
    are nearly; on plain axes if a score is not positive.
    """
    points = [(_cost(result, axis), result.metrics[key]) for result in record.results if key in result.metrics]
    costs, values = (np.asarray(column) for column in zip(*points, strict=True))
    if (values > 0).all():
        return float(np.exp(np.interp(math.log(budget), np.log(costs), np.log(values))))
    return float(np.interp(budget, costs, values))


def _cost(result: Any, axis: Axis) -> float:
    return float(result.images if axis == "images" else result.metrics[axis])
