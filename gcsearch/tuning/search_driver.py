"""The driver of a search: carries out what the engine decides, then trains the finalists."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.ledger import ENDED, LedgerWriter, StudyState, TrialRecord
from gcsearch.selection import select
from gcsearch.tuning import finalists
from gcsearch.tuning.driver import Driver, Observer
from gcsearch.tuning.engine import Launch
from gcsearch.tuning.spec import StudySpec
from gcsearch.tuning.stopping import Decision, not_promoted

SPENT = "the study's hours are spent; a larger budget resumes it"


class SearchDriver(Driver):
    """Driver of a search.

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
        super().__init__(study.resources, directory, ledger, state, observers)
        self.study = study
        self.engine = study.engine()
        self._started = time.monotonic()
        self._has_finalists = False
        if study.finalists is not None:
            finalists.check_unchanged(state, study.experiment, study.finalists)

    def next_trial(self) -> TrialRecord | None:
        """Start or resume what the engine says is next, then the finalists."""
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
        self.settle()
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
        running = (now - since for trial, since in self.active_since.items() if trial in self.active)
        seconds = self._device_seconds + self.study.resources.devices * sum(running)
        return seconds >= 3600 * budget.gpu_hours

    @property
    def _device_seconds(self) -> float:
        """What trials of the search that are not active have held."""
        records = (record for record in self.state.trials.values() if record.kind == "trial")
        return sum(record.device_seconds for record in records if record.trial not in self.active)

    def _next_final(self) -> finalists.Final | None:
        """The next finalist; None while the search goes on, or if all are trained."""
        settings = self.study.finalists
        if settings is None or any(self.state.trials[trial].kind == "trial" for trial in self.active):
            return None
        chosen = finalists.candidates(self.state, settings, self.study.objectives)
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
        return self.write_start(trial, experiment, kind="trial", params=params, audit=audit, reason=launch.reason)

    def _start_final(self, final: finalists.Final) -> TrialRecord:
        """Start or resume a finalist; before the first of a run, say who they are."""
        settings, objective = self.study.finalists, self.study.objective
        assert settings is not None
        if not self._has_finalists:
            self._has_finalists = True
            chosen = finalists.candidates(self.state, settings, self.study.objectives)
            self.write("finalists_started", candidates=chosen, seeds=list(settings.seeds))
        record, begun = self.state.trials[final.candidate], self.state.trials.get(final.trial)
        experiment = (
            finalists.experiment_of(record, final.seed, settings, objective)
            if begun is None
            else Experiment.from_dict(begun.config, source=f"trial {final.trial}")
        )
        return self.write_start(
            final.trial, experiment, kind="finalist", candidate=final.candidate, params=record.params
        )

    def is_over(self, record: TrialRecord) -> bool:
        if record.kind != "trial":
            return False  # a finalist runs to the end
        if self._carry_out(record.trial, self.engine.decide(self.state, record)):
            return True
        if record.images < self.engine.horizon and self._hours_are_spent():
            self.end(record.trial, "interrupted", SPENT)
            return True
        return False

    def _carry_out(self, trial: str, decision: Decision) -> bool:
        """Record a decision; True if the trial must leave its place."""
        if decision.stop:
            self.end(trial, "stopped", decision.reason)
        elif decision.pause:
            self.end(trial, "interrupted", decision.reason, is_paused=True)
        return decision.stop or decision.pause

    def finish(self) -> None:
        """Record the end of the study and its winner; what still waits for promotion then is stopped."""
        for record in self.engine.paused(self.state):
            self.end(record.trial, "stopped", not_promoted(record.reason))
        selection = select(self.state)
        self.write("study_ended", finalists=None if selection is None else selection.to_dict())
