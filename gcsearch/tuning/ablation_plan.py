"""What an ablation will cost and what it can tell, before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from gcsearch.config import Experiment
from gcsearch.noise import KnownNoise
from gcsearch.registry import spec
from gcsearch.statistics import RETRAINING_NOISE, resolvable_paired_gap
from gcsearch.statistics.verdicts import ALPHA
from gcsearch.tuning.ablation import AblationSpec
from gcsearch.tuning.measuring import NETWORKS, measure
from gcsearch.tuning.planning import Cost, concurrent_here, cost_of, device_name, kind_of
from gcsearch.tuning.teacher_costs import PlannedTeacher, planned_teachers

CORRELATION: Final = 0.5
"""Assumed between the scores of two arms on one seed, until an ablation has measured it."""


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """What an ablation will do and cost.

    Attributes:
        arm_seconds: Training time of each arm, without evaluations; None if this machine cannot tell.
        num_trainings: Arms times seeds; of a path, over all steps that it may have.
        num_first: Trainings of a path's first step, which are the fewest that it may have; else the same.
        contrasts: What will be judged; of a path, in the first step.
        num_judged: Contrasts that the error rate is for; of a path, those of all steps that it may have.
        cost: All trainings with their evaluations; None if this machine cannot tell.
        teachers: What is trained before the first of them; not in `cost`.
        gap: Smallest relative gaps that the seeds tell four times in five after correction: for the lowest and the
            highest usual noise, or for the measured noise and its upper limit.
        noise: What an earlier ablation knows of the reference's noise; None if none does.
        correlation: Between the scores of two arms on one seed: measured there, or assumed.
        device: Where steps were measured.
        unit: What device hours count.
    """

    arm_seconds: Mapping[str, float | None]
    num_trainings: int
    num_first: int
    contrasts: tuple[str, ...]
    num_judged: int
    cost: Cost | None
    teachers: tuple[PlannedTeacher, ...]
    gap: tuple[float, float]
    noise: KnownNoise | None
    correlation: float
    device: str
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def plan_ablation(ablation: AblationSpec, noise: KnownNoise | None = None) -> AblationPlan:
    """What an ablation will do and cost; starts nothing and writes nothing.

    Arms of the same network, coupling and so on are measured once. The gap is for the first contrast that Holm's
    procedure rejects, which has the share 1 / contrasts of the error rate; later ones are seen sooner. The cost of a
    path is that of the longest.

    Args:
        ablation: The ablation.
        noise: Of its reference, where that is known.
    """
    resources, num_seeds = ablation.resources, len(ablation.seeds)
    is_measurable = resources.gpus_per_worker == 0 or torch.cuda.is_available()
    device = torch.device("cuda" if resources.gpus_per_worker else "cpu")
    recipes = {arm.name: ablation.experiment_of(arm, ablation.seeds[0]) for arm in ablation.arms}
    kinds: dict[str, tuple[float, float]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(resources.cpus_per_worker)
    try:
        for experiment in recipes.values() if is_measurable else ():
            if (kind := _kind(experiment)) not in kinds:
                kinds[kind] = measure(experiment, device)
    finally:
        torch.set_num_threads(threads)
    # In step k of a path the changes that are left are trained once more, on top of another reference: as if of the
    # same cost as at first, on average over the changes.
    steps = len(ablation.factors) if ablation.design == "path" else 1
    changes = len(recipes) - 1
    times = {name: float(steps if index == 0 else (steps + 1) / 2) for index, name in enumerate(recipes)}
    seconds: dict[str, float | None] = dict.fromkeys(recipes)
    train = sample = 0.0
    for name, experiment in recipes.items():
        if is_measurable:
            per_image, per_sample = kinds[_kind(experiment)]
            training = seconds[name] = per_image * experiment.training.num_images
            runs = num_seeds * times[name]
            train += runs * training
            judged = len(experiment.rungs) * experiment.evaluation.num_samples * NETWORKS
            sample += runs * judged * per_sample
    num_judged = changes * (changes + 1) // 2 if ablation.design == "path" else len(ablation.layout.contrasts)
    alpha = ALPHA / num_judged
    correlation = CORRELATION if noise is None or noise.correlation is None else noise.correlation
    deviations = RETRAINING_NOISE if noise is None else (noise.deviation.value, noise.deviation.high)
    low, high = (resolvable_paired_gap(one, num_seeds, correlation, alpha=alpha) for one in deviations)
    return AblationPlan(
        arm_seconds=seconds,
        num_trainings=round(num_seeds * sum(times.values())),
        num_first=num_seeds * len(recipes),
        num_judged=num_judged,
        contrasts=tuple(one.name for one in ablation.layout.contrasts),
        cost=cost_of(train, sample, resources, concurrent_here(resources)) if is_measurable else None,
        teachers=planned_teachers(recipes.values(), is_measurable=is_measurable),
        gap=(low, high),
        noise=noise,
        correlation=correlation,
        device=device_name(device, resources) if is_measurable else "no GPU here",
        unit="GPU" if resources.gpus_per_worker else "worker",
    )


def _kind(experiment: Experiment) -> str:
    """Arms of one kind cost the same; unlike in a search, mu may be all that sets two of them apart."""
    return f"{kind_of(experiment)}, {spec(experiment.coupling)}"
