"""What a study will cost before it starts: trials per rung by simulation, time by a few measured steps."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.ledger import TrialRecord
from gcsearch.registry import spec
from gcsearch.statistics import RETRAINING_NOISE, resolvable_gap
from gcsearch.tuning.finalists import every_images, num_samples
from gcsearch.tuning.measuring import NETWORKS, measure
from gcsearch.tuning.replay import Simulation
from gcsearch.tuning.samplers import RandomChooser
from gcsearch.tuning.samplers.plain import GridSampler, RandomSampler
from gcsearch.tuning.settings import Resources
from gcsearch.tuning.spec import StudySpec
from gcsearch.tuning.teacher_costs import PlannedTeacher, planned_teachers

DRAWS: Final = 100
"""Random recipes from which those to measure are taken."""

MEASURED: Final = 6
"""Recipes that are measured at most."""

SIMULATIONS: Final = 10
MAX_TRIALS: Final = 500
"""Trials of a simulated study at most, where only hours limit it."""

COSTLY: Final = ("network", "coupling", "objective", "distance")
"""Sections that decide what a step costs, by their component; the batch size does too."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a recipe costs on this machine.

    Attributes:
        recipe: What sets it apart, in words.
        share: Share of the space that it stands for.
        train_seconds: Seconds of training per image.
        sample_seconds: Seconds per generated sample, without its features.
    """

    recipe: str
    share: float
    train_seconds: float
    sample_seconds: float


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Means over simulated studies.

    Attributes:
        trials: Trials started.
        reached: Trials that get to each rung.
        images: Images of all trials together.
        evaluations: Evaluations of all trials together.
    """

    trials: float
    reached: Mapping[int, float]
    images: float
    evaluations: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Expected cost of one part of a study.

    Attributes:
        device_hours: Hours of GPUs, or of workers where trials have no GPU.
        wall_hours: Hours until it is done, with as many trials at a time as this machine holds.
    """

    device_hours: float
    wall_hours: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study will do and cost.

    Attributes:
        rungs: Images at which trials are evaluated.
        stopping_rungs: Those at which the stopping rule decides.
        counts: Expected trials and images.
        steps: Measured recipes; empty if this machine cannot tell.
        device: Where they were measured.
        concurrent: Trials at a time on this machine.
        search: Cost of the search; None if nothing was measured.
        finalists: Cost of the finalists; None without any, or if nothing was measured.
        num_finalists: Trainings of finalists.
        teachers: What is trained before the first trial; in none of the costs.
        gap: Smallest relative gaps between two recipes that their seeds tell apart four times in five, for the lowest
            and the highest usual noise; None without finalists.
        unit: What device hours count.
    """

    rungs: tuple[int, ...]
    stopping_rungs: tuple[int, ...]
    counts: Counts
    steps: tuple[Step, ...]
    device: str
    concurrent: int
    search: Cost | None
    finalists: Cost | None
    num_finalists: int
    teachers: tuple[PlannedTeacher, ...]
    gap: tuple[float, float] | None
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        counts = asdict(self.counts) | {"reached": {str(rung): num for rung, num in self.counts.reached.items()}}
        return asdict(self) | {"counts": counts}


def make_plan(study: StudySpec) -> Plan:
    """What a study will do and cost; starts nothing and writes nothing."""
    resources, budget = study.resources, study.budget
    is_measurable = resources.gpus_per_worker == 0 or torch.cuda.is_available()
    device = torch.device("cuda" if resources.gpus_per_worker else "cpu")
    concurrent = concurrent_here(resources)
    steps = tuple(_measured(study, device)) if is_measurable else ()
    train, sample = (
        sum(step.share * getattr(step, name) for step in steps) for name in ("train_seconds", "sample_seconds")
    )
    evaluated = study.experiment.evaluation.num_samples * NETWORKS
    every = study.experiment.evaluation.every_images
    per_image = (train + sample * evaluated / every) / resources.workers
    limits = [
        3600 * hours * places / per_image
        for hours, places in (
            (budget.wall_hours, concurrent),
            (budget.gpu_hours, 1 / resources.devices),
        )
        if hours is not None and steps
    ]
    if not steps and budget.trials is None:
        raise ConfigError(
            "plan: a study limited by hours alone must be planned on a machine with the GPUs it asks for. Set "
            "budget.trials too, or run plan there."
        )
    counts = simulated(study, concurrent, min([math.inf, *limits]))
    num_finalists = 0 if study.finalists is None else study.finalists.top * len(study.finalists.seeds)
    search = finalists = None
    if steps:
        search = cost_of(counts.images * train, counts.evaluations * evaluated * sample, resources, concurrent)
        if study.finalists is not None:
            judged = num_samples(study.experiment, study.finalists) * NETWORKS
            images = study.experiment.training.num_images
            judged *= math.ceil(images / every_images(study.experiment, study.objective))
            finalists = cost_of(num_finalists * images * train, num_finalists * judged * sample, resources, concurrent)
    gap = None
    if study.finalists is not None:
        low, high = (resolvable_gap(noise, len(study.finalists.seeds)) for noise in RETRAINING_NOISE)
        gap = low, high
    return Plan(
        rungs=study.experiment.rungs,
        stopping_rungs=study.stopping.rungs(study.experiment.training.num_images),
        counts=counts,
        steps=steps,
        device=device_name(device, resources) if steps else "no GPU here",
        concurrent=concurrent,
        search=search,
        finalists=finalists,
        num_finalists=num_finalists,
        teachers=planned_teachers(study.recipes(), is_measurable=bool(steps)),
        gap=gap,
        unit="GPU" if resources.gpus_per_worker else "worker",
    )


def cost_of(train_seconds: float, sample_seconds: float, resources: Resources, concurrent: int) -> Cost:
    """Workers share batches and samples, so a trial of several is as much shorter as it is broader."""
    seconds = (train_seconds + sample_seconds) / resources.workers
    return Cost(device_hours=seconds * resources.devices / 3600, wall_hours=seconds / concurrent / 3600)


def device_name(device: torch.device, resources: Resources) -> str:
    """The device in words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {resources.cpus_per_worker} thread{'s' if resources.cpus_per_worker > 1 else ''}"


def concurrent_here(resources: Resources) -> int:
    """Trials at a time on this machine."""
    if resources.concurrent != "auto":
        return resources.concurrent
    fits = (os.cpu_count() or 1) // (resources.workers * resources.cpus_per_worker)
    if resources.gpus_per_worker:
        fits = min(fits, int(torch.cuda.device_count() / (resources.workers * resources.gpus_per_worker) + 1e-9))
    return max(1, fits)


# Trials per rung -----------------------------------------------------------------------------------------------------


def simulated(study: StudySpec, concurrent: int, budget_images: float = math.inf) -> Counts:
    """Mean counts over simulated studies whose scores are random: half a trial's own quality, half noise of a rung.

    Args:
        study: The study.
        concurrent: Trials at a time.
        budget_images: Images that all trials together may see.
    """
    runs = [_simulation(study, concurrent, budget_images, seed) for seed in range(SIMULATIONS)]
    rungs = study.experiment.rungs
    records = [record for run in runs for record in run]
    return Counts(
        trials=len(records) / SIMULATIONS,
        reached={rung: sum(record.images >= rung for record in records) / SIMULATIONS for rung in rungs},
        images=sum(record.images for record in records) / SIMULATIONS,
        evaluations=sum(len(record.results) for record in records) / SIMULATIONS,
    )


def _simulation(study: StudySpec, concurrent: int, budget_images: float, seed: int) -> list[TrialRecord]:
    sampler = study.search.sampler
    engine = replace(
        study.engine(),
        sampler=sampler if isinstance(sampler, GridSampler) else RandomSampler(),
        seed=seed,
        start_from=(),
        max_trials=min(study.budget.trials or MAX_TRIALS, MAX_TRIALS),
        is_settling=lambda record, images: False,
    )

    signs = [1.0 if objective.goal == "minimize" else -1.0 for objective in study.objectives]

    def score(record: TrialRecord, images: int) -> list[float]:
        own, noise = (np.random.default_rng([seed, int(record.trial), at]).random(len(signs)) for at in (0, images))
        return [float(value) for value in (own + noise) * signs]

    simulation = Simulation(engine, score, budget_images, concurrent)
    simulation.run()
    return list(simulation.ledger.trials.values())


# Time of a step ------------------------------------------------------------------------------------------------------


def _measured(study: StudySpec, device: torch.device) -> Iterator[Step]:
    """A few recipes of the space, each standing for those that cost about the same."""
    groups: dict[str, list[Experiment]] = {}
    for number in range(DRAWS):
        try:
            experiment = study.experiment_of(study.space.choose(RandomChooser(study.search.seed, number), study.base))
        except ConfigError:  # values that are illegal together: such a trial costs nothing
            continue
        groups.setdefault(kind_of(experiment), []).append(experiment)
    names = sorted(groups)
    chosen = [names[round(index)] for index in np.linspace(0, len(names) - 1, min(MEASURED, len(names)))]
    total = sum(len(groups[name]) for name in chosen)
    each = max(1, MEASURED // len(chosen))
    threads = torch.get_num_threads()
    torch.set_num_threads(study.resources.cpus_per_worker)
    try:
        for name in chosen:
            share = len(groups[name]) / total
            costs = [measure(experiment, device) for experiment in groups[name][:each]]
            train, sample = (float(np.mean([cost[index] for cost in costs])) for index in (0, 1))
            yield Step(recipe=name, share=share, train_seconds=train, sample_seconds=sample)
    finally:
        torch.set_num_threads(threads)


def kind_of(experiment: Experiment) -> str:
    """Recipes of one kind cost about the same: what the network is, and the components of the other sections."""
    network = {key: value for key, value in spec(experiment.network).items() if key != "dropout"}
    size = ", ".join(f"{key}={value}" for key, value in network.items() if key != "name")
    others = [str(getattr(experiment, section).name) for section in COSTLY if section != "network"]
    return f"{network['name']} ({size}), {', '.join(others)}, batches of {experiment.training.batch_size}"
