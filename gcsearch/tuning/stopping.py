"""Stopping rules: whether a trial goes on after a rung, as a pure function of the table of scores.

To add one: a frozen dataclass below with `@stoppings.register("name")`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gcsearch.registry import Component, Registry

RungTable = Mapping[int, Mapping[str, float]]
"""Images -> trial -> score at that rung; lower is better, infinite for trials that diverged before it."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a rule decided.

    Attributes:
        stop: Whether the trial ends here.
        reason: Why, in words, if it does.
    """

    stop: bool
    reason: str | None = None


GO_ON = Decision(stop=False)


class Stopping(Component, ABC):
    """A stopping rule."""

    @abstractmethod
    def rungs(self, horizon_images: int) -> tuple[int, ...]:
        """Images at which the rule decides, increasing, below the horizon."""

    @abstractmethod
    def decide(self, trial: str, images: int, score: float, table: RungTable, horizon_images: int) -> Decision:
        """Decision for `trial` that has just reached `images` with `score`.

        Args:
            trial: Number of the trial.
            images: Images it has seen.
            score: Its score there; lower is better.
            table: Scores of the other trials it is compared with, by rung.
            horizon_images: Length of a full training.
        """


stoppings: Registry[Stopping] = Registry("stopping")


@stoppings.register("none")
@dataclass(frozen=True, kw_only=True)
class NoStopping(Stopping):
    """Every trial runs to the horizon."""

    def rungs(self, horizon_images: int) -> tuple[int, ...]:
        del horizon_images
        return ()

    def decide(self, trial: str, images: int, score: float, table: RungTable, horizon_images: int) -> Decision:
        del trial, images, score, table, horizon_images
        return GO_ON


@stoppings.register("asha")
@dataclass(frozen=True, kw_only=True)
class ASHA(Stopping):
    """Asynchronous successive halving, stopping variant.

    Rungs are at min_images factor^k. A trial goes on if fewer than a 1 / factor share of the trials recorded at its
    rung are better; the first to reach a rung always goes on.

    Attributes:
        min_images: First rung, in images; a multiple of `evaluation.every_images`.
        factor: Share kept at a rung is 1 / factor; also the ratio of neighbouring rungs.
        within: Key of the space: only trials with the same value are compared. ``auto`` takes the timestep schedule
            if it is searched, because an exponential curriculum looks bad early and wins late; ``none`` compares all.

    Source: Li et al. 2020 (arXiv:1810.05934), with the stopping rule of its common implementations.
    """

    min_images: int = 64_000
    factor: int = 3
    within: str = "auto"

    def __post_init__(self) -> None:
        if self.min_images < 1:
            raise ValueError(f"min_images must be at least 1, got {self.min_images}")
        if self.factor < 2:
            raise ValueError(f"factor must be at least 2, got {self.factor}")

    def rungs(self, horizon_images: int) -> tuple[int, ...]:
        rungs, rung = [], self.min_images
        while rung < horizon_images:
            rungs.append(rung)
            rung *= self.factor
        return tuple(rungs)

    def decide(self, trial: str, images: int, score: float, table: RungTable, horizon_images: int) -> Decision:
        if images not in self.rungs(horizon_images):
            return GO_ON
        if math.isnan(score):
            score = math.inf  # NaN is less than nothing, so it would pass for the best
        others = [value for other, value in table.get(images, {}).items() if other != trial]
        better = sum(value < score for value in others)
        kept = max(1, (len(others) + 1) // self.factor)
        if better < kept:
            return GO_ON
        return Decision(
            stop=True,
            reason=f"rank {better + 1} of {len(others) + 1} at {images} images, the best {kept} went on",
        )


def comparable(
    within: str | None, params: Mapping[str, object], trials: Sequence[tuple[str, Mapping[str, object]]]
) -> set[str]:
    """Trials that may be compared with one of parameters `params`: those with the same value of the key `within`."""
    if within is None:
        return {trial for trial, _ in trials}
    return {trial for trial, other in trials if other.get(within) == params.get(within)}
