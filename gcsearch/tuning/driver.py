"""The driver: carries out what the engine decides, and writes it down. Knows no Ray.

Everything it knows comes from the ledger, so a driver that was killed at any instant is rebuilt from the file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gcsearch.config import Experiment
from gcsearch.config.documents import dump_yaml
from gcsearch.errors import ConfigError
from gcsearch.files import write_text
from gcsearch.ledger import ENDED, Event, LedgerWriter, StudyState, TrialRecord
from gcsearch.selection import select
from gcsearch.tuning import finalists
from gcsearch.tuning.engine import Launch
from gcsearch.tuning.spec import StudySpec
from gcsearch.tuning.stopping import Decision

SPENT = "the study's hours are spent; a larger budget resumes it"


class Observer(Protocol):
    """Somebody who watches a study: the live view, the tracker."""

    def on_event(self, event: Event) -> None:
        """An event was written to the ledger."""

    def on_progress(self, trial: str, images: int, images_per_second: float) -> None:
        """A trial is between two rungs."""


class Driver:
    """Writes the ledger.

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
        self.engine = study.engine()
        self.active: set[str] = set()
        self.is_stopping = False
        self._started = time.monotonic()
        self._active_since: dict[str, float] = {}
        self._has_finalists = False
        if study.finalists is not None:
            finalists.check_unchanged(state, study.experiment, study.finalists)

    def write(self, event: str, **fields: Any) -> None:
        """Append an event, apply it to the state, tell the observers."""
        record = self.ledger.append(event, **fields)
        self.state.apply(record)
        for observer in self.observers:
            observer.on_event(record)

    def next_trial(self) -> TrialRecord | None:
        """Start or resume what the engine says is next, then the finalists; None if there is nothing, now or at all."""
        if self.is_stopping:
            return None
        self.settle()
        while launch := self._next():
            if started := self._start(launch):
                return started
        final = self._next_final()
        return None if final is None else self._start_final(final)

    def settle(self) -> None:
        """Make the decisions that an earlier driver died before it recorded."""
        for record, decision in self.engine.undecided(self.state, self.active):
            self._carry_out(record.trial, decision)

    def has_work(self) -> bool:
        """Whether `next_trial` would start one."""
        return self._next() is not None or self._next_final() is not None

    def _next(self) -> Launch | None:
        return None if self._hours_are_spent() else self.engine.next(self.state, self.active)

    def budget_is_spent(self) -> bool:
        """Whether no further trial of the search may start."""
        return self.engine.is_spent(self.state) or self._hours_are_spent()

    def _hours_are_spent(self) -> bool:
        """Whether a limit in hours is reached, with what earlier runs have used."""
        budget, now = self.study.budget, time.monotonic()
        if budget.wall_hours is not None:
            seconds = now - self._started + self.state.earlier_wall_seconds
            if seconds >= 3600 * budget.wall_hours:
                return True
        if budget.gpu_hours is None:
            return False
        running = (now - since for trial, since in self._active_since.items() if trial in self.active)
        seconds = self._device_seconds + self.study.resources.devices * sum(running)
        return seconds >= 3600 * budget.gpu_hours

    @property
    def _device_seconds(self) -> float:
        """What trials of the search that are not active have held."""
        records = (record for record in self.state.trials.values() if record.kind == "trial")
        return sum(record.device_seconds for record in records if record.trial not in self.active)

    def _next_final(self) -> finalists.Final | None:
        """The next finalist; None while the search goes on, or if all are trained."""
        settings, objective = self.study.finalists, self.study.objective
        if settings is None or any(self.state.trials[trial].kind == "trial" for trial in self.active):
            return None
        chosen = finalists.candidates(self.state, settings, objective)
        for final in finalists.plan(chosen, settings):
            record = self.state.trials.get(final.trial)
            if record is None or (record.state not in ENDED and record.trial not in self.active):
                return final
        return None

    def _start(self, launch: Launch) -> TrialRecord | None:
        """Start a trial; one whose values are illegal together fails at once, and then there is none."""
        trial, params, audit = launch.trial, launch.params, launch.is_audit or None
        try:
            experiment = self.study.experiment_of(params)
        except ConfigError as error:
            self.write("trial_started", trial=trial, kind="trial", params=params, audit=audit)
            self.end(trial, "failed", str(error))
            return None
        return self._write_start(trial, experiment, kind="trial", params=params, audit=audit)

    def _start_final(self, final: finalists.Final) -> TrialRecord:
        """Start or resume a finalist; before the first of a run, say who they are."""
        settings, objective = self.study.finalists, self.study.objective
        assert settings is not None
        if not self._has_finalists:
            self._has_finalists = True
            chosen = finalists.candidates(self.state, settings, objective)
            self.write("finalists_started", candidates=chosen, seeds=list(settings.seeds))
        record = self.state.trials[final.candidate]
        experiment = finalists.experiment_of(record, final.seed, settings, objective)
        return self._write_start(
            final.trial, experiment, kind="finalist", candidate=final.candidate, params=record.params
        )

    def _write_start(self, trial: str, experiment: Experiment, **fields: Any) -> TrialRecord:
        config = experiment.to_dict()
        write_text(self.trial_directory(trial) / "config.yaml", dump_yaml(config))
        self.active.add(trial)
        self._active_since[trial] = time.monotonic()
        self.write(
            "trial_started",
            trial=trial,
            **fields,
            config=config,
            fingerprint=experiment.fingerprint,
            recipe=experiment.recipe_fingerprint,
            seed=experiment.seed,
            devices=self.study.resources.devices,
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
        if record.kind != "trial":
            return False  # a finalist runs to the end
        if self._carry_out(trial, self.engine.decide(self.state, record)):
            return True
        if images < self.engine.horizon and self._hours_are_spent():
            self.end(trial, "interrupted", SPENT)
            return True
        return False

    def _carry_out(self, trial: str, decision: Decision) -> bool:
        """Record a decision; True if the trial must leave its place."""
        if decision.stop:
            self.end(trial, "stopped", decision.reason)
        elif decision.pause:
            self.end(trial, "interrupted", decision.reason, is_paused=True)
        return decision.stop or decision.pause

    def end(self, trial: str, state: str, reason: str | None = None, *, is_paused: bool = False) -> None:
        """Record the end of a trial; a paused one waits at its checkpoint until the stopping rule resumes it."""
        self.active.discard(trial)
        images = self.state.trials[trial].images
        self.write("trial_ended", trial=trial, state=state, reason=reason, images=images, paused=is_paused or None)

    def finish(self) -> None:
        """Record the end of the study and its winner; what still waits for promotion then is stopped."""
        for record in self.engine.paused(self.state):
            self.end(record.trial, "stopped", record.reason)
        selection = select(self.state)
        self.write("study_ended", finalists=None if selection is None else selection.to_dict())

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
