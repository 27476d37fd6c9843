"""Stopping rules: whether a trial goes on after a rung, as a pure function of the table of scores.

A rung is a number of images. To add a rule: a frozen dataclass below with `@stoppings.register("name")`.
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from gcsearch.registry import Component, Registry

RungTable = Mapping[int, Mapping[str, float]]
"""Images -> trial -> score at that rung; lower is better, infinite for trials that diverged before it."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a rule decided.

    Attributes:
        stop: Whether the trial ends here.
        pause: Whether it waits here, and the rule may resume it.
        reason: Why, in words, if either.
    """

    stop: bool = False
    pause: bool = False
    reason: str | None = None


GO_ON = Decision()
WAITS: Final = "waits for promotion"


def not_promoted(reason: str | None) -> str:
    """Why a trial has ended that waited to the end of its study, from why it waited."""
    return (reason or WAITS).replace(WAITS, "was not promoted")


class Stopping(Component, ABC):
    """A stopping rule."""

    @property
    def is_by_expectation(self) -> bool:
        """Whether trials that wait are ranked by what is expected of them at the horizon, where that can be said."""
        return False

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

    def resumes(self, score: float, column: Mapping[str, float], went_on: int, *, is_last_call: bool) -> bool:
        """Whether the best of the trials that wait at a rung goes on now.

        Args:
            score: Its score there, or its expected one at the horizon; lower is better.
            column: The same of all trials it is compared with there.
            went_on: How many of them have gone on from there.
            is_last_call: Whether nothing else is left to do, so that waiting for more trials is pointless.
        """
        del score, column, went_on, is_last_call
        return False


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


@dataclass(frozen=True, kw_only=True)
class RungRule(Stopping):
    """A rule that compares trials at rungs.

    Attributes:
        min_images: First rung, in images; a multiple of `evaluation.every_images`, which it is if a study does not say.
        within: Key of the space: only trials with the same value are compared. ``auto`` takes the timestep schedule
            if it is searched, because an exponential curriculum looks bad early and wins late; ``none`` compares all.
        audit: Share of the trials that ignore the rule, in [0, 1], so that the ranks at a rung can be checked against
            the last ones without survivorship. They cost full trainings.
        grace: A rung is not judged, and a score there not counted, for a trial whose number of timestep levels has
            grown by half or more in the last `grace` times the horizon: it has yet to settle. In [0, 1).
    """

    min_images: int = 64_000
    within: str = "auto"
    audit: float = 0.0
    grace: float = 0.02

    def __post_init__(self) -> None:
        if self.min_images < 1:
            raise ValueError(f"min_images must be at least 1, got {self.min_images}")
        if not 0 <= self.audit <= 1:
            raise ValueError(f"audit must be in [0, 1], got {self.audit}")
        if not 0 <= self.grace < 1:
            raise ValueError(f"grace must be in [0, 1), got {self.grace}")
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Check the fields that are the rule's own."""


def _geometric(first: int, factor: int, horizon_images: int) -> tuple[int, ...]:
    """first, first factor, first factor^2, ... below the horizon."""
    rungs, rung = [], first
    while rung < horizon_images:
        rungs.append(rung)
        rung *= factor
    return tuple(rungs)


def _rank(trial: str, score: float, column: Mapping[str, float]) -> tuple[int, int]:
    """Trials of a column that are better than `trial`, and all of them with it."""
    if math.isnan(score):
        score = math.inf  # NaN is less than nothing, so it would pass for the best
    others = [value for other, value in column.items() if other != trial]
    return sum(value < score for value in others), len(others) + 1


def _place(better: int, count: int, images: int) -> str:
    return f"rank {better + 1} of {count} at {images} images"


@stoppings.register("asha")
@dataclass(frozen=True, kw_only=True)
class ASHA(RungRule):
    """Asynchronous successive halving.

    Rungs are at min_images factor^k. In the promotion variant every trial waits at its rung, and the best of those
    that wait goes on when it is among the best 1 / factor recorded there. In the stopping variant a trial that is
    among the best 1 / factor so far goes on at once and any other one ends; the first at a rung always goes on. The
    first variant wastes less on early comers and loses no late one; in the second a trial runs in one piece.

    In both no more than a 1 / factor share goes on from a rung, except for a trial that is better than all others
    there. Without that, a model that learns defeats the rule: each suggestion beats the history, so each would go on.

    A low rung tells good trials apart badly, and a sampler with a model knows more than the score there: the trial's
    parameters, and what became of others. So in the promotion variant trials that wait are ranked by the score that
    the sampler expects of them at the horizon, as soon as it can say (`SearchSampler.expected`).

    Attributes:
        factor: Share kept at a rung is 1 / factor; also the ratio of neighbouring rungs.
        variant: ``promotion`` or ``stopping``.
        rank_by: ``expected``, at the horizon, or ``score``, at the rung. The stopping variant, samplers without a model
            and studies of several objectives go by the score in any case.

    Source: Li et al. 2020 (arXiv:1810.05934), Algorithm 2 (promotion); stopping as in its common implementations. The
        limit on the share and the rank by expectation are ours; Swersky et al. 2014 (arXiv:1406.3896) also choose by a
        model which training goes on.
    """

    factor: int = 3
    variant: Literal["promotion", "stopping"] = "promotion"
    rank_by: Literal["expected", "score"] = "expected"

    @property
    def is_by_expectation(self) -> bool:
        return self.variant == "promotion" and self.rank_by == "expected"

    def _check(self) -> None:
        if self.factor < 2:
            raise ValueError(f"factor must be at least 2, got {self.factor}")

    def rungs(self, horizon_images: int) -> tuple[int, ...]:
        return _geometric(self.min_images, self.factor, horizon_images)

    def decide(self, trial: str, images: int, score: float, table: RungTable, horizon_images: int) -> Decision:
        if images not in self.rungs(horizon_images):
            return GO_ON
        better, count = _rank(trial, score, table.get(images, {}))
        if self.variant == "promotion":
            return Decision(pause=True, reason=f"{_place(better, count, images)}, {WAITS}")
        kept = max(1, count // self.factor)
        above = table.get(min(images * self.factor, horizon_images), {})
        went_on = sum(other != trial for other in above)  # those on their way there are not seen, and few
        is_tied = any(value == score for other, value in table.get(images, {}).items() if other != trial)
        if (better == 0 and not is_tied) or (better < kept and went_on <= kept):
            return GO_ON
        why = f"the best {kept} went on" if better >= kept else f"{went_on} had gone on already"
        return Decision(stop=True, reason=f"{_place(better, count, images)}, {why}")

    def resumes(self, score: float, column: Mapping[str, float], went_on: int, *, is_last_call: bool) -> bool:
        better = sum(value < score for value in column.values())
        kept = len(column) // self.factor
        kept = max(1, kept) if is_last_call else kept
        is_best = sum(value <= score for value in column.values()) == 1
        return self.variant == "promotion" and better < kept and (went_on < kept or is_best)


@stoppings.register("hyperband")
@dataclass(frozen=True, kw_only=True)
class Hyperband(RungRule):
    """Hyperband, asynchronous: brackets of successive halving that begin to stop at different rungs.

    A bracket that skips k rungs is a hedge against early scores that mislead; the last one never stops. Trials take
    turns so that every bracket gets about the same number of images, and are compared inside their bracket only.

    Attributes:
        factor: Share kept at a rung is 1 / factor; also the ratio of neighbouring rungs.

    Source: Li et al. 2018 (arXiv:1603.06560), Algorithm 1, for the sizes of the brackets; inside a bracket the
        decisions are those of asynchronous successive halving (arXiv:1810.05934).
    """

    factor: int = 3

    def _check(self) -> None:
        if self.factor < 2:
            raise ValueError(f"factor must be at least 2, got {self.factor}")

    def rungs(self, horizon_images: int) -> tuple[int, ...]:
        return _geometric(self.min_images, self.factor, horizon_images)

    def sizes(self, horizon_images: int) -> tuple[int, ...]:
        """Relative number of trials in each bracket, from the one that skips no rung to the one that skips all.

        n_s = ceil((s_max + 1) / (s + 1) factor^s), s = rungs at which the bracket stops trials
        """
        most = len(self.rungs(horizon_images))
        return tuple(math.ceil((most + 1) / (s + 1) * self.factor**s) for s in range(most, -1, -1))

    def bracket(self, trial: str, horizon_images: int) -> int:
        """Rungs that the trial skips: brackets are filled in proportion to their sizes, largest backlog first."""
        turns = _turns(self.sizes(horizon_images))
        return turns[int(trial) % len(turns)]

    def decide(self, trial: str, images: int, score: float, table: RungTable, horizon_images: int) -> Decision:
        rungs = self.rungs(horizon_images)
        bracket = self.bracket(trial, horizon_images)
        if images not in rungs[bracket:]:
            return GO_ON
        column = table.get(images, {})
        same = {other: value for other, value in column.items() if self.bracket(other, horizon_images) == bracket}
        better, count = _rank(trial, score, same)
        kept = max(1, count // self.factor)
        if better < kept:
            return GO_ON
        return Decision(
            stop=True, reason=f"{_place(better, count, images)} in bracket {bracket}, the best {kept} went on"
        )


@lru_cache(maxsize=16)
def _turns(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Whose turn it is, so that every start of the sequence is about in proportion to `sizes`."""
    filled, turns = [0] * len(sizes), []
    for _ in range(sum(sizes)):
        chosen = min(range(len(sizes)), key=lambda index: ((filled[index] + 0.5) / sizes[index], index))
        filled[chosen] += 1
        turns.append(chosen)
    return tuple(turns)


@stoppings.register("median")
@dataclass(frozen=True, kw_only=True)
class Median(RungRule):
    """Median rule: a trial ends if its best score so far is worse than the median of the others' running averages.

    It is judged at every multiple of `min_images`, against the mean of each other trial's scores up to there.

    Attributes:
        min_trials: Other trials that must have got there before anybody is judged.

    Source: Golovin et al. 2017 (Google Vizier), section 3.3.
    """

    min_trials: int = 5

    def _check(self) -> None:
        if self.min_trials < 1:
            raise ValueError(f"min_trials must be at least 1, got {self.min_trials}")

    def rungs(self, horizon_images: int) -> tuple[int, ...]:
        return tuple(range(self.min_images, horizon_images, self.min_images))

    def decide(self, trial: str, images: int, score: float, table: RungTable, horizon_images: int) -> Decision:
        rungs = self.rungs(horizon_images)
        if images not in rungs:
            return GO_ON
        columns = [table.get(rung, {}) for rung in rungs if rung <= images]
        here = [other for other, value in columns[-1].items() if other != trial and not math.isnan(value)]
        if len(here) < self.min_trials:
            return GO_ON
        averages = [_mean([column[other] for column in columns if other in column]) for other in here]
        median = statistics.median(averages)
        own = [column[trial] for column in columns[:-1] if trial in column]
        best = min(value for value in (*own, score, math.inf) if not math.isnan(value))
        if best <= median:
            return GO_ON
        return Decision(stop=True, reason=f"best {best:g} is worse than the median {median:g} at {images} images")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
