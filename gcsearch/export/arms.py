"""What an export of an ablation holds: the best arm by its mean over seeds, and of that arm one training."""

from __future__ import annotations

import math

from gcsearch.ablations import Plan, scores
from gcsearch.analysis.results import StudyResults
from gcsearch.errors import StudyError
from gcsearch.ledger import TrialRecord
from gcsearch.selection import Replicates


def arm_replicates(results: StudyResults) -> list[Replicates]:
    """All arms that have a score on as many seeds as any, none of them diverged; the best mean first.

    Raises:
        ScoreError: Scores have different identities and cannot be compared.
    """
    assert results.state.ablation is not None
    plan = Plan.from_dict(results.state.ablation)
    by_arm = scores(plan, results.state)
    most = max((len(by_seed) for by_seed in by_arm.values()), default=0)
    found = []
    for arm, by_seed in by_arm.items():
        if most and len(by_seed) == most and all(map(math.isfinite, by_seed.values())):
            seeds = tuple(sorted(by_seed))
            records = tuple(_record(results, arm, seed) for seed in seeds)
            times = [record.results[-1].metrics.get("cost/train_seconds", 0.0) for record in records]
            found.append(
                Replicates(
                    candidate=arm,
                    records=records,
                    values=tuple(by_seed[seed] for seed in seeds),
                    seeds=seeds,
                    seconds=sum(times) / len(times),
                )
            )
    return sorted(found, key=lambda one: sum(one.values) * (1 if plan.lower_is_better else -1))


def _record(results: StudyResults, arm: str, seed: int) -> TrialRecord:
    return next(record for record in results.state.of_state("completed") if (record.arm, record.seed) == (arm, seed))


def best_training(results: StudyResults) -> TrialRecord:
    """The best training of the arm with the best mean.

    Not the best of all trainings: that may be one lucky seed of an arm that is worse.

    Raises:
        StudyError: No arm has completed trainings alone.
    """
    arms = arm_replicates(results)
    if not arms:
        raise StudyError(
            f"ablation '{results.name}': no arm has completed on its seeds, so there is none to export. Run it to its "
            "end, or name a training with --trial, e.g. --trial 00-s0."
        )
    best = arms[0]
    value = min(best.values) if results.lower_is_better else max(best.values)
    return best.records[best.values.index(value)]
