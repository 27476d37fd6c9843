"""The search engine: what to try next, and whether a trial goes on. Pure functions of the state of a study.

It knows no files, no Ray and no training. The driver of a real study and the simulator both ask it and carry out what
it says, so a rule that was measured in the simulator is the rule that runs. Since the state is the sum of the ledger's
events, so is every decision: after a kill the same ones are made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gcsearch.config import Document
from gcsearch.ledger import StudyState, TrialRecord
from gcsearch.tuning.samplers.base import Drawn, History, Observation, RandomChooser, SearchSampler, drawn_from
from gcsearch.tuning.space import FixedChooser, Params, Space
from gcsearch.tuning.stopping import GO_ON, Decision, RungRule, Stopping

AUDIT = 3
"""Purpose of the random number that says which trials are audits."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A trial to start or to resume.

    Attributes:
        trial: Its number, as text.
        params: Its parameters.
        is_audit: Whether it ignores the stopping rule.
    """

    trial: str
    params: Params
    is_audit: bool


class ScoreTable(Mapping[int, Mapping[str, float]]):
    """Scores of comparable trials by rung, each rung looked up when it is asked for.

    Args:
        rungs: All rungs.
        column: Scores at one of them.
    """

    def __init__(self, rungs: Collection[int], column: Callable[[int], dict[str, float]]) -> None:
        self._rungs = rungs
        self._column = column
        self._known: dict[int, dict[str, float]] = {}

    def __getitem__(self, images: int) -> dict[str, float]:
        if images not in self._known:
            self._known[images] = self._column(images) if images in self._rungs else {}
        if not self._known[images]:
            raise KeyError(images)
        return self._known[images]

    def __contains__(self, images: object) -> bool:
        return isinstance(images, int) and self.get(images) is not None

    def __iter__(self) -> Iterator[int]:
        return (rung for rung in self._rungs if rung in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Decides.

    Attributes:
        space: What may vary.
        base: The experiment that the space varies; empty if the keys are free names.
        sampler: Rule for suggesting.
        seed: Seed of the search.
        start_from: Parameters of the first trials; what they leave out is drawn at random.
        stopping: Rule for stopping.
        within: Key inside which trials are compared; None compares all.
        metric: Key of the score in results.
        loss: The score with lower always better.
        rungs: Images of all evaluations, increasing; the last one is the horizon.
        max_trials: Trials in the study; None for no limit.
        is_settling: Whether a trial's score at some images is not to be judged yet, because its training task has just
            changed.
    """

    space: Space
    base: Document
    sampler: SearchSampler
    seed: int
    start_from: tuple[Params, ...]
    stopping: Stopping
    within: str | None
    metric: str
    loss: Callable[[float], float]
    rungs: tuple[int, ...]
    max_trials: int | None = None
    is_settling: Callable[[TrialRecord, int], bool] = lambda record, images: False

    @property
    def horizon(self) -> int:
        """Length of a full training, in images."""
        return self.rungs[-1]

    # What is next --------------------------------------------------------------------------------------------------

    def next(self, state: StudyState, active: Collection[str] = (), *, may_start: bool = True) -> Launch | None:
        """The trial to work on next; None if there is none, now or, if nothing is active, at all.

        First those that an earlier driver left unfinished, then paused ones that the rule resumes, the one at the
        highest rung first, then a new suggestion.

        Args:
            state: The study.
            active: Trials being worked on.
            may_start: Whether a limit outside the engine (time, money) leaves room for new trials.
        """
        for record in self.left_over(state, active):
            return Launch(trial=record.trial, params=record.params, is_audit=record.is_audit)
        may_start = may_start and not self.is_spent(state)
        if resumed := self._promoted(state, is_last_call=not may_start and not active):
            return Launch(trial=resumed.trial, params=resumed.params, is_audit=resumed.is_audit)
        number = len(state.trials)
        params = self.suggest(state, number) if may_start else None
        if params is None:
            last = self._promoted(state, is_last_call=True) if may_start and not active else None
            return Launch(trial=last.trial, params=last.params, is_audit=last.is_audit) if last else None
        return Launch(trial=f"{number:04d}", params=params, is_audit=self.is_audit(number))

    def left_over(self, state: StudyState, active: Collection[str] = ()) -> Iterator[TrialRecord]:
        """Trials that were being worked on, and are not active now."""
        unfinished = (record for record in self._trials(state) if record.state in ("running", "interrupted"))
        return (record for record in unfinished if record.trial not in active and not record.is_paused)

    def undecided(self, state: StudyState, active: Collection[str] = ()) -> Iterator[tuple[TrialRecord, Decision]]:
        """Decisions that an earlier driver died before it recorded.

        A trainer does not report again what the ledger has, so a trial that was to end at its last rung would go on.
        """
        for record in list(self.left_over(state, active)):
            decision = self.decide(state, record)
            if decision.stop or decision.pause:
                yield record, decision

    def is_spent(self, state: StudyState) -> bool:
        """Whether the study has all its trials."""
        return self.max_trials is not None and sum(1 for _ in self._trials(state)) >= self.max_trials

    def suggest(self, state: StudyState, number: int) -> Params | None:
        """Parameters of trial `number`; None if the sampler has nothing left to try."""
        if number < len(self.start_from):
            chooser: Any = FixedChooser(self.start_from[number], RandomChooser(self.seed, number))
        else:
            chooser = self.sampler.chooser(
                History(
                    space=self.space,
                    base=self.base,
                    observations=self.observations(state),
                    rungs=self.rungs,
                    seed=self.seed,
                    number=number,
                    num_given=len(self.start_from),
                )
            )
        return None if chooser is None else self.space.choose(chooser, self.base)

    def is_audit(self, number: int) -> bool:
        """Whether trial `number` ignores the stopping rule: evenly spaced, beginning somewhere at random."""
        share = self.stopping.audit if isinstance(self.stopping, RungRule) else 0.0
        phase = np.random.default_rng([self.seed, AUDIT]).random()
        return math.floor((number + 1) * share + phase) > math.floor(number * share + phase)

    def _promoted(self, state: StudyState, *, is_last_call: bool) -> TrialRecord | None:
        """The paused trial that the rule resumes: at the highest rung, then with the best score."""
        waiting = [record for record in self._trials(state) if record.is_paused and record.state == "interrupted"]
        candidates, tables = [], {}
        for record in waiting:
            score = self._score(record, record.images, None)
            score = math.inf if score is None else score
            group = record.params.get(self.within) if self.within else None
            table = tables[group] = tables.get(group) or self.table(state, record)
            if self.stopping.resumes(record.trial, record.images, score, table, is_last_call=is_last_call):
                candidates.append((-record.images, score, record.trial))
        return state.trials[min(candidates)[2]] if candidates else None

    # Whether it goes on ------------------------------------------------------------------------------------------

    def decide(self, state: StudyState, record: TrialRecord) -> Decision:
        """The stopping rule's decision at the trial's last result, on what was known when it got there.

        Nothing is decided twice: a trial that was started again after that result goes on.
        """
        if not record.results or record.images >= self.horizon or record.is_audit:
            return GO_ON
        known = record.results[-1].order
        score = self._score(record, record.images, known)
        if score is None or record.since_order > known or self.is_settling(record, record.images):
            return GO_ON
        table = self.table(state, record, until=known)
        return self.stopping.decide(record.trial, record.images, score, table, self.horizon)

    def table(self, state: StudyState, record: TrialRecord, until: int | None = None) -> ScoreTable:
        """Scores of the trials that `record` may be compared with, by rung.

        Args:
            state: The study.
            record: The trial.
            until: Number of the ledger's event after which nothing counts; None counts all.
        """
        others = [
            other
            for other in self._trials(state)
            if self.within is None or other.params.get(self.within) == record.params.get(self.within)
        ]

        def column(images: int) -> dict[str, float]:
            scores = ((other, self._score(other, images, until)) for other in others)
            return {
                other.trial: score
                for other, score in scores
                if score is not None and not (math.isfinite(score) and self.is_settling(other, images))
            }

        return ScoreTable(self.rungs, column)

    # What is known -----------------------------------------------------------------------------------------------

    def observations(self, state: StudyState) -> list[Observation]:
        """All trials as samplers see them."""
        return [
            Observation(
                drawn=self._drawn(record),
                scores=self.scores(record),
                is_running=record.state == "running" or (record.state == "interrupted" and not record.is_paused),
            )
            for record in self._trials(state)
        ]

    def scores(self, record: TrialRecord) -> dict[int, float]:
        """Score at each rung, lower is better; a diverged trial has the worst score at every later rung."""
        scores = {
            result.images: self.loss(result.metrics[self.metric])
            for result in record.results
            if self.metric in result.metrics
        }
        if record.state == "diverged":
            scores |= {rung: math.inf for rung in self.rungs if rung > record.images}
        return scores

    def _score(self, record: TrialRecord, images: int, until: int | None) -> float | None:
        """Score at one rung, as far as it was known; None without one."""
        if images > record.images:
            is_known = until is None or (record.ended_order or 0) <= until
            return math.inf if record.state == "diverged" and is_known and images in self.rungs else None
        result = record.at(images)
        if result is None or self.metric not in result.metrics or (until is not None and result.order > until):
            return None
        return self.loss(result.metrics[self.metric])

    def _drawn(self, record: TrialRecord) -> Drawn:
        if record.trial not in self._drawn_cache:
            self._drawn_cache[record.trial] = drawn_from(self.space, self.base, record.params)
        return self._drawn_cache[record.trial]

    @cached_property
    def _drawn_cache(self) -> dict[str, Drawn]:
        """Choices behind the parameters of each trial, which never change."""
        return {}

    def _trials(self, state: StudyState) -> Iterator[TrialRecord]:
        """The trials of the search; finalists and arms of an ablation are not its business."""
        return (record for record in state.trials.values() if record.kind == "trial")
