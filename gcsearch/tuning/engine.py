"""The search engine: what to try next, and whether a trial goes on. Pure functions of the state of a study.

It knows no files, no Ray and no training. The driver of a real study and the simulator both ask it and carry out what
it says, so a rule that was measured in the simulator is the rule that runs. Since the state is the sum of the ledger's
events, so is every decision: after a kill the same ones are made again.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gcsearch.config import Document
from gcsearch.ledger import StudyState, TrialRecord
from gcsearch.tuning.samplers.base import History, Observation, RandomChooser, SearchSampler, drawn_from
from gcsearch.tuning.settings import Objective
from gcsearch.tuning.space import FixedChooser, Params, Space
from gcsearch.tuning.standings import ScoreTable, Standings, losses_of, ranked
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
        reason: Why the stopping rule resumes it, in words, if it does.
    """

    trial: str
    params: Params
    is_audit: bool
    reason: str | None = None


def _resumed(record: TrialRecord, reason: str | None = None) -> Launch:
    return Launch(trial=record.trial, params=record.params, is_audit=record.is_audit, reason=reason)


def _rank(trial: str, column: Mapping[str, float]) -> int:
    return 1 + sum(value < column.get(trial, math.inf) for value in column.values())


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Decides.

    With several objectives a trial's score at a rung is its place there among the trials it is compared with (see
    `gcsearch.pareto.places`): by front first, so that no rule prefers a trial to one that dominates it, and inside a
    front in an order that spreads out, so that those that go on cover the front. Every rule and sampler that goes by
    ranks then works as with one objective.

    Attributes:
        space: What may vary.
        base: The experiment that the space varies; empty if the keys are free names.
        sampler: Rule for suggesting.
        seed: Seed of the search.
        start_from: Parameters of the first trials; what they leave out is drawn at random.
        stopping: Rule for stopping.
        within: Key inside which trials are compared; None compares all.
        objectives: What is minimised or maximised.
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
    objectives: tuple[Objective, ...]
    rungs: tuple[int, ...]
    max_trials: int | None = None
    is_settling: Callable[[TrialRecord, int], bool] = lambda record, images: False

    @property
    def horizon(self) -> int:
        """Length of a full training, in images."""
        return self.rungs[-1]

    # What is next --------------------------------------------------------------------------------------------------

    def next(
        self,
        state: StudyState,
        active: Collection[str] = (),
        *,
        left_images: float = math.inf,
    ) -> Launch | None:
        """The trial to work on next; None if there is none, now or, if nothing is active, at all.

        First those that an earlier driver left unfinished, then paused ones that the rule resumes, the one at the
        highest rung first, then a new suggestion.

        Args:
            state: The study.
            active: Trials being worked on.
            left_images: Images that may still be spent; only a trial that reaches its next rung with them is given.
        """

        def is_affordable(record: TrialRecord) -> bool:
            return self.to_next_rung(record.images) <= left_images

        if unfinished := next(filter(is_affordable, self.left_over(state, active)), None):
            return _resumed(unfinished)
        paused = self.paused(state)
        affordable = {images for images in {one.images for one in paused} if self.to_next_rung(images) <= left_images}
        waiting = [record for record in paused if record.images in affordable]
        if promoted := self._promoted(state, waiting, is_last_call=False):
            return promoted
        number = sum(1 for _ in self._trials(state))
        is_open = not self.is_spent(state) and self.rungs[0] <= left_images
        params = self.suggest(state, number) if is_open else None
        if params is not None:
            return Launch(trial=f"{number:04d}", params=params, is_audit=self.is_audit(number))
        return None if active else self._promoted(state, waiting, is_last_call=True)

    def to_next_rung(self, images: int) -> int:
        """Images from one rung, or from the start, to the next; 0 at the horizon."""
        index = bisect_right(self.rungs, images)
        return self.rungs[index] - images if index < len(self.rungs) else 0

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
            chooser = self.sampler.chooser(self._history(state, number))
        return None if chooser is None else self.space.choose(chooser, self.base)

    def _history(self, state: StudyState, number: int) -> History:
        return History(
            space=self.space,
            base=self.base,
            observations=self.observations(state),
            rungs=self.rungs,
            seed=self.seed,
            number=number,
            num_given=len(self.start_from),
            num_objectives=len(self.objectives),
            within=self.within,
        )

    def is_audit(self, number: int) -> bool:
        """Whether trial `number` ignores the stopping rule: evenly spaced, beginning somewhere at random."""
        share = self.stopping.audit if isinstance(self.stopping, RungRule) else 0.0
        phase = np.random.default_rng([self.seed, AUDIT]).random()
        return math.floor((number + 1) * share + phase) > math.floor(number * share + phase)

    def _promoted(self, state: StudyState, paused: Iterable[TrialRecord], *, is_last_call: bool) -> Launch | None:
        """The paused trial that the rule resumes: at the highest rung, then with the best score."""
        standings = self._standings(state)
        waiting: dict[int, dict[Any, list[TrialRecord]]] = {}
        for record in paused:
            waiting.setdefault(record.images, {}).setdefault(standings.group(record), []).append(record)
        expected = self._expected(state) if waiting else None
        for images in sorted(waiting, reverse=True):
            found = []
            for group, records in waiting[images].items():
                scores = column = standings.scores(images, group)
                if expected is not None:
                    column = {trial: expected[trial] if math.isfinite(at) else at for trial, at in scores.items()}
                best = min((column.get(record.trial, math.inf), record.trial) for record in records)
                found.append((best, group, scores, column))
            for (score, trial), group, scores, column in sorted(found, key=lambda one: one[0]):
                went_on = sum(self._went_on(other, images) for other in standings.reached(images, group))
                if self.stopping.resumes(score, column, went_on, is_last_call=is_last_call):
                    reason = f"rank {_rank(trial, scores)} of {len(scores)} at {images} images"
                    if expected is not None:
                        reason += f", expected rank {_rank(trial, column)} at {self.horizon}"
                    return _resumed(state.trials[trial], reason)
        return None

    def _expected(self, state: StudyState) -> dict[str, float] | None:
        """What the sampler expects of every trial at the horizon, if the rule wants to know and the sampler can say."""
        if not self.stopping.is_by_expectation or len(self.objectives) > 1:
            return None
        for known, num_events, expected in self._foreseen:
            if known is state and num_events == state.num_events:
                return expected
        trials = [record.trial for record in self._trials(state)]
        scores = self.sampler.expected(self._history(state, len(trials)))
        expected = None if scores is None else dict(zip(trials, scores, strict=True))
        self._foreseen[:] = [(state, state.num_events, expected)]
        return expected

    @cached_property
    def _foreseen(self) -> list[tuple[StudyState, int, dict[str, float] | None]]:
        """The last answer, since a driver asks more than once what is next before something happens."""
        return []

    def paused(self, state: StudyState) -> list[TrialRecord]:
        """Trials that wait for the stopping rule to resume them."""
        return [record for record in self._trials(state) if record.is_paused]

    @staticmethod
    def _went_on(record: TrialRecord, images: int) -> bool:
        """Whether the rule let a trial go on from a rung; one that came to nothing there gives up its place."""
        if record.is_audit or record.state in ("diverged", "failed"):
            return False
        is_held = record.is_paused or record.state == "stopped"  # what waited until the end of the study is stopped
        return not (is_held and record.images == images)

    # Whether it goes on ------------------------------------------------------------------------------------------

    def decide(self, state: StudyState, record: TrialRecord) -> Decision:
        """The stopping rule's decision at the trial's last result, on what was known when it got there.

        Nothing is decided twice: a trial that was started again after that result goes on.
        """
        if not record.results or record.images not in self.stopping.rungs(self.horizon) or record.is_audit:
            return GO_ON
        known = record.results[-1].order
        if record.since_order > known or self.is_settling(record, record.images):
            return GO_ON
        table = self.table(state, record, until=known)
        score = table.get(record.images, {}).get(record.trial)
        if score is None:
            return GO_ON
        return self.stopping.decide(record.trial, record.images, score, table, self.horizon)

    def table(self, state: StudyState, record: TrialRecord, until: int | None = None) -> ScoreTable:
        """Scores of the trials that `record` may be compared with, by rung.

        Args:
            state: The study.
            record: The trial.
            until: Number of the ledger's event after which nothing counts; None counts all.
        """
        standings = self._standings(state)
        return ScoreTable(standings, self.rungs, standings.group(record), until)

    def _standings(self, state: StudyState) -> Standings:
        """Scores of the study so far: made anew for another study only."""
        known = self._kept_up.get("standings")
        if known is None or known.state is not state:
            known = Standings(state, self.objectives, self.rungs, self.within, self.is_settling)
            self._kept_up["standings"] = known
        return known

    @cached_property
    def _kept_up(self) -> dict[str, Standings]:
        """Standings of the study that was asked for last."""
        return {}

    # What is known -----------------------------------------------------------------------------------------------

    def observations(self, state: StudyState) -> list[Observation]:
        """All trials as samplers see them."""
        records = list(self._trials(state))
        observations = [self._observation(record) for record in records]
        if len(self.objectives) == 1:
            return observations
        table = {
            images: ranked({str(n): one.losses[images] for n, one in enumerate(observations) if images in one.losses})
            for images in self.rungs
        }
        return [
            replace(one, scores={images: table[images][str(number)] for images in one.losses})
            for number, one in enumerate(observations)
        ]

    def _observation(self, record: TrialRecord) -> Observation:
        """A trial as samplers see it, made anew only when something has happened to it."""
        happened = (len(record.results), record.state, record.is_paused)
        known = self._observed.get(record.trial)
        if known is None or known[0] != happened:
            drawn = known[1].drawn if known else drawn_from(self.space, self.base, record.params)
            is_running = record.state == "running" or (record.state == "interrupted" and not record.is_paused)
            losses = self.losses(record)
            known = (
                happened,
                Observation(
                    drawn=drawn,
                    scores={images: values[0] for images, values in losses.items()},
                    is_running=is_running,
                    losses=losses if len(self.objectives) > 1 else {},
                ),
            )
            self._observed[record.trial] = known
        return known[1]

    @cached_property
    def _observed(self) -> dict[str, tuple[tuple[int, str, bool], Observation]]:
        """Observations as they were made last. An engine serves one study, whose trials keep their parameters."""
        return {}

    def losses(self, record: TrialRecord) -> dict[int, tuple[float, ...]]:
        """Objectives at each rung, lower is better; a diverged trial has the worst at every later rung."""
        losses = {
            result.images: values
            for result in record.results
            if (values := losses_of(result, self.objectives)) is not None
        }
        if record.state == "diverged":
            losses |= {rung: self._worst for rung in self.rungs if rung > record.images}
        return losses

    @property
    def _worst(self) -> tuple[float, ...]:
        return (math.inf,) * len(self.objectives)

    def _trials(self, state: StudyState) -> Iterator[TrialRecord]:
        """The trials of the search; finalists and arms of an ablation are not its business."""
        return (record for record in state.trials.values() if record.kind == "trial")
