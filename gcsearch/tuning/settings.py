"""Sections of a study file: how trials are judged, chosen and paid for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gcsearch.tuning.samplers import SearchSampler
from gcsearch.tuning.samplers.auto import RungAwareBO

DEFAULT_TRIALS: Final = 24
FINALIST_SAMPLES: Final = 10_000

COSTS: Final = ("train_seconds", "forward_units")
"""Costs of training that may be an objective beside a score; lower is better. The second one has no noise."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a study minimises or maximises.

    Attributes:
        metric: A score of the experiment, e.g. ``fid`` for ``eval/fid``; beside one, also a cost of training.
        goal: Direction; must agree with the metric's own.
        use: Which value of a finished trial counts: its ``last`` or its ``best``.
    """

    metric: str = "fid"
    goal: Literal["minimize", "maximize"] = "minimize"
    use: Literal["last", "best"] = "last"

    @property
    def key(self) -> str:
        """Name under which results carry the metric."""
        if "/" in self.metric:
            return self.metric
        return f"cost/{self.metric}" if self.metric in COSTS else f"eval/{self.metric}"

    def loss(self, value: float) -> float:
        """The value with lower always better."""
        return value if self.goal == "minimize" else -value


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When the search ends: whichever limit is reached first. Finalists come on top.

    When a limit in hours is reached, running trials go on to their next rung and wait there; nothing else starts.

    Attributes:
        trials: Trials in the search; 24 if no limit at all is given.
        wall_hours: Hours of all runs of the search together.
        gpu_hours: Hours times GPUs that trials have held, over all runs. Without GPUs a worker counts as one, so these
            are worker-hours.
    """

    trials: int | None = None
    wall_hours: float | None = None
    gpu_hours: float | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.wall_hours is None and self.gpu_hours is None:
            object.__setattr__(self, "trials", DEFAULT_TRIALS)
        if self.trials is not None and self.trials < 1:
            raise ValueError(f"trials must be at least 1, got {self.trials}")
        if self.wall_hours is not None and not self.wall_hours > 0:
            raise ValueError(f"wall_hours must be > 0, got {self.wall_hours}")
        if self.gpu_hours is not None and not self.gpu_hours > 0:
            raise ValueError(f"gpu_hours must be > 0, got {self.gpu_hours}")


@dataclass(frozen=True, kw_only=True)
class Search:
    """How parameters are chosen.

    Attributes:
        sampler: Rule for suggesting.
        seed: Seed of the search; with one trial at a time it fixes the study.
        start_from: Parameters of the first trials; what they leave out is drawn at random.
    """

    sampler: SearchSampler = field(default_factory=RungAwareBO)
    seed: int = 0
    start_from: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Finalists:
    """Best recipes of the search that are trained again on fresh seeds, where the winner is decided.

    Attributes:
        top: Recipes.
        seeds: Seeds of their trainings; at least two, and not the one that the search used.
        num_samples: Generated samples per evaluation; None takes 10,000, or the experiment's if that is more.
    """

    top: int = 3
    seeds: tuple[int, ...] = (1, 2, 3)
    num_samples: int | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if len(self.seeds) < 2 or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be at least two different numbers >= 0, got {list(self.seeds)}")
        if self.num_samples is not None and self.num_samples < 16:
            raise ValueError(f"num_samples must be at least 16, got {self.num_samples}")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a trial gets.

    Attributes:
        workers: Processes per trial, which share every batch; in place of the experiment's ``training.num_workers``,
            which is the default.
        cpus_per_worker: CPU cores per process, which is also its number of threads.
        gpus_per_worker: GPUs per process; a fraction shares one between trials of one process.
        concurrent: Trials at a time; ``auto`` takes as many as fit.
        max_failures: How often a trial whose process died is started again from its last checkpoint. An error of the
            training itself is not tried again.
        hang_minutes: Longest time in which a trial takes no step and reports nothing; one that is silent for longer
            counts as one whose process died. An evaluation must fit into it; a start has five minutes more.
    """

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    concurrent: int | Literal["auto"] = "auto"
    max_failures: int = 1
    hang_minutes: float = 120.0

    @property
    def devices(self) -> float:
        """GPUs that a trial holds; without GPUs, its workers."""
        return self.workers * (self.gpus_per_worker or 1.0)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.cpus_per_worker < 1:
            raise ValueError(f"cpus_per_worker must be at least 1, got {self.cpus_per_worker}")
        gpus = self.gpus_per_worker
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise ValueError(f"gpus_per_worker must be a whole number, or between 0 and 1, got {gpus:g}")
        if self.workers > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_worker must be a whole number with {self.workers} workers, got {gpus:g}")
        if self.max_failures < 0:
            raise ValueError(f"max_failures must be >= 0, got {self.max_failures}")
        if not self.hang_minutes > 0:
            raise ValueError(f"hang_minutes must be > 0, got {self.hang_minutes:g}")
        if self.concurrent != "auto" and self.concurrent < 1:
            raise ValueError(f"concurrent must be auto or at least 1, got {self.concurrent}")
