"""The driver's decisions: which trial next, stop or go on. Pure bookkeeping over the ledger; knows no Ray.

Everything it knows comes from the ledger, so a driver that was killed at any instant is rebuilt from the file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gcsearch.config.documents import dump_yaml
from gcsearch.errors import ConfigError
from gcsearch.files import write_text
from gcsearch.ledger import Event, LedgerWriter, StudyState, TrialRecord
from gcsearch.tuning.samplers import Observation, RandomChooser, drawn_from
from gcsearch.tuning.space import FixedChooser
from gcsearch.tuning.spec import StudySpec
from gcsearch.tuning.stopping import GO_ON, Decision, comparable


class Observer(Protocol):
    """Somebody who watches a study: the live view, the tracker."""

    def on_event(self, event: Event) -> None:
        """An event was written to the ledger."""

    def on_progress(self, trial: str, images: int, images_per_second: float) -> None:
        """A trial is between two rungs."""


class Driver:
    """Writes the ledger and decides.

    Args:
        study: The study.
        directory: Its folder.
        ledger: Open writer of its ledger.
        state: State of the ledger's events so far.
        observers: Told of every event, after it is on disk.
    """

    def __init__(
        self,
        study: StudySpec,
        directory: Path,
        ledger: LedgerWriter,
        state: StudyState,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.study = study
        self.directory = directory
        self.ledger = ledger
        self.state = state
        self.observers = observers
        self.active: set[str] = set()
        self.is_stopping = False
        self._started = time.monotonic()

    def write(self, event: str, **fields: Any) -> None:
        """Append an event, apply it to the state, tell the observers."""
        record = self.ledger.append(event, **fields)
        self.state.apply(record)
        for observer in self.observers:
            observer.on_event(record)

    def next_trial(self) -> TrialRecord | None:
        """Start the next trial: one that an earlier driver left unfinished, or a new suggestion; None at the end."""
        if self.is_stopping:
            return None
        self.settle()
        started = None
        for record in self._left_over():
            if started := self._start(record.trial, record.params):
                return started
        while started is None and not self.budget_is_spent():
            number = len(self.state.trials)
            started = self._start(f"{number:04d}", self._suggest(number))
        return started

    def settle(self) -> None:
        """Make the decisions that an earlier driver died before it recorded.

        A trainer does not report again what the ledger has, so a trial that was to stop at its last rung would go on.
        """
        for record in self._left_over():
            decision = self._decide(record)
            if decision.stop:
                self.end(record.trial, "stopped", decision.reason)

    def _left_over(self) -> list[TrialRecord]:
        """Trials that an earlier driver left unfinished."""
        unfinished = self.state.of_state("running", "interrupted")
        return [record for record in unfinished if record.trial not in self.active]

    def has_work(self) -> bool:
        """Whether `next_trial` would start one."""
        unfinished = any(self.state.of_state("running", "interrupted"))
        return unfinished or not self.budget_is_spent()

    def budget_is_spent(self) -> bool:
        """Whether no further trial may start."""
        budget = self.study.budget
        hours = (time.monotonic() - self._started + self.state.earlier_wall_seconds) / 3600
        return len(self.state.trials) >= budget.trials or (budget.wall_hours is not None and hours >= budget.wall_hours)

    def _suggest(self, number: int) -> dict[str, Any]:
        study, search = self.study, self.study.search
        if number < len(search.start_from):
            chooser: Any = FixedChooser(search.start_from[number], RandomChooser(search.seed, number))
        else:
            chooser = search.sampler.chooser(self.observations(), study.experiment.rungs, search.seed, number)
        params, _ = study.space.draw(chooser, study.base)
        return params

    def observations(self) -> list[Observation]:
        """All trials as samplers see them."""
        return [
            Observation(
                drawn=drawn_from(self.study.space, self.study.base, record.params),
                scores=self._scores(record),
                is_running=record.state in ("running", "interrupted"),
            )
            for record in self.state.trials.values()
        ]

    def _scores(self, record: TrialRecord, until: str | None = None) -> dict[int, float]:
        """Score at each rung, lower is better; a diverged trial has the worst score at every later rung.

        Args:
            record: The trial.
            until: Time of the ledger after which nothing counts.
        """
        objective = self.study.objective
        scores = {}
        for result in record.results:
            value = result.metrics.get(objective.key)
            if value is not None and (until is None or result.time <= until):
                scores[result.images] = objective.loss(value)
        if record.state == "diverged" and (until is None or (record.ended or "") <= until):
            scores |= {rung: math.inf for rung in self.study.experiment.rungs if rung > record.images}
        return scores

    def _start(self, trial: str, params: dict[str, Any]) -> TrialRecord | None:
        """Start a trial; one whose values are illegal together fails at once, and then there is none."""
        try:
            experiment = self.study.experiment_of(params)
        except ConfigError as error:
            self.write("trial_started", trial=trial, kind="trial", params=params)
            self.end(trial, "failed", str(error))
            return None
        config = experiment.to_dict()
        write_text(self.trial_directory(trial) / "config.yaml", dump_yaml(config))
        self.active.add(trial)
        self.write(
            "trial_started",
            trial=trial,
            kind="trial",
            params=params,
            config=config,
            fingerprint=experiment.fingerprint,
            recipe=experiment.recipe_fingerprint,
            seed=experiment.seed,
        )
        return self.state.trials[trial]

    def trial_directory(self, trial: str) -> Path:
        """Folder of a trial."""
        return self.directory / "trials" / trial

    def on_report(self, trial: str, report: dict[str, Any]) -> bool:
        """Record what a trial reported; True if it must stop now."""
        if trial not in self.active:
            return True
        if "progress" in report:
            images, speed = report["progress"]
            for observer in self.observers:
                observer.on_progress(trial, images, speed)
        elif "samples" in report:
            images, name = report["samples"]
            path = f"trials/{trial}/samples/{name}"
            if self.state.trials[trial].samples.get(images) != path:  # written again after a resume
                self.write("samples", trial=trial, images=images, path=path)
        elif "result" in report:
            return self._on_result(trial, report["result"])
        elif "outcome" in report:
            self.end(trial, report["outcome"]["state"], report["outcome"]["reason"])
        return False

    def _on_result(self, trial: str, result: dict[str, Any]) -> bool:
        record, images = self.state.trials[trial], result["images"]
        if images <= record.images:
            return False  # the ledger has it, and what was decided on it
        self.write("result", trial=trial, images=images, metrics=result["metrics"], identities=result["identities"])
        self.write("checkpoint", trial=trial, images=images, path=f"trials/{trial}/checkpoints/latest.pt")
        decision = self._decide(record)
        if decision.stop:
            self.end(trial, "stopped", decision.reason)
        return decision.stop

    def _decide(self, record: TrialRecord) -> Decision:
        """The stopping rule's decision at the trial's last rung, on what was known when it got there."""
        horizon = self.study.experiment.training.num_images
        scores = self._scores(record)
        if record.images not in scores or record.images >= horizon:
            return GO_ON
        table = self.rung_table(record, until=record.results[-1].time)
        return self.study.stopping.decide(record.trial, record.images, scores[record.images], table, horizon)

    def rung_table(self, record: TrialRecord, until: str | None = None) -> dict[int, dict[str, float]]:
        """Scores of the trials that `record` may be compared with, by rung; known at a time, or now."""
        trials = [(other.trial, other.params) for other in self.state.trials.values()]
        table: dict[int, dict[str, float]] = {}
        for other in sorted(comparable(self.study.within, record.params, trials)):
            for images, score in self._scores(self.state.trials[other], until).items():
                table.setdefault(images, {})[other] = score
        return table

    def end(self, trial: str, state: str, reason: str | None = None) -> None:
        """Record the end of a trial."""
        self.active.discard(trial)
        self.write("trial_ended", trial=trial, state=state, reason=reason, images=self.state.trials[trial].images)

    def on_lost(self, trial: str, reason: str) -> None:
        """A process of the trial is gone: start it again from its last checkpoint, but not for ever."""
        if self.state.trials[trial].losses < self.study.resources.max_failures:
            self.write("trial_lost", trial=trial, reason=reason)
            self.end(trial, "interrupted", reason)
        else:
            self.end(trial, "failed", reason)

    def interrupt(self) -> None:
        """Record that the trials still running were interrupted; the next driver goes on with them."""
        self.is_stopping = True
        for trial in sorted(self.active):
            self.end(trial, "interrupted")
