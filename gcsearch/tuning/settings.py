"""Sections of a study file: how trials are judged, chosen and paid for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from gcsearch.tuning.samplers import SearchSampler
from gcsearch.tuning.samplers.auto import RungAwareTPE


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a study minimises or maximises.

    Attributes:
        metric: A score of the experiment, e.g. ``fid`` for ``eval/fid``.
        goal: Direction; must agree with the metric's own.
        use: Which value of a finished trial counts: its ``last`` or its ``best``.
    """

    metric: str = "fid"
    goal: Literal["minimize", "maximize"] = "minimize"
    use: Literal["last", "best"] = "last"

    @property
    def key(self) -> str:
        """Name under which results carry the metric."""
        return self.metric if "/" in self.metric else f"eval/{self.metric}"

    def loss(self, value: float) -> float:
        """The value with lower always better."""
        return value if self.goal == "minimize" else -value


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop starting trials: whichever limit is reached first.

    Attributes:
        trials: Trials in the study.
        wall_hours: Hours of all runs of the study together.
    """

    trials: int = 24
    wall_hours: float | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials must be at least 1, got {self.trials}")
        if self.wall_hours is not None and not self.wall_hours > 0:
            raise ValueError(f"wall_hours must be > 0, got {self.wall_hours}")


@dataclass(frozen=True, kw_only=True)
class Search:
    """How parameters are chosen.

    Attributes:
        sampler: Rule for suggesting.
        seed: Seed of the search; with one trial at a time it fixes the study.
        start_from: Parameters of the first trials; what they leave out is drawn at random.
    """

    sampler: SearchSampler = field(default_factory=RungAwareTPE)
    seed: int = 0
    start_from: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")


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
    """

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    concurrent: int | Literal["auto"] = "auto"
    max_failures: int = 1

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
        if self.concurrent != "auto" and self.concurrent < 1:
            raise ValueError(f"concurrent must be auto or at least 1, got {self.concurrent}")
