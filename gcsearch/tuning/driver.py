"""The driver of a study or an ablation: starts trials, takes their reports, writes them down. Knows no Ray.

Everything it knows comes from the ledger, so a driver that was killed at any instant is rebuilt from the file.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gcsearch.config import Experiment
from gcsearch.config.documents import dump_yaml
from gcsearch.files import write_text
from gcsearch.ledger import Event, LedgerWriter, StudyState, TrialRecord
from gcsearch.metrics.grid import grid_name
from gcsearch.tuning.settings import Resources


class Observer(Protocol):
    """Somebody who watches a study: the live view, the tracker."""

    def on_event(self, event: Event) -> None:
        """An event was written to the ledger."""

    def on_progress(self, trial: str, images: int, images_per_second: float) -> None:
        """A trial is between two rungs."""


class Driver(ABC):
    """Writes the ledger. What is next, and when a trial is over, is said by the kind of study.

    Args:
        resources: What a trial gets.
        directory: Folder of the study.
        ledger: Open writer of its ledger.
        state: State of the ledger's events so far.
        observers: Told of every event, after it is on disk.
    """

    def __init__(
        self,
        resources: Resources,
        directory: Path,
        ledger: LedgerWriter,
        state: StudyState,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.resources = resources
        self.directory = directory
        self.ledger = ledger
        self.state = state
        self.observers = observers
        self.active: set[str] = set()
        self.active_since: dict[str, float] = {}
        self.is_stopping = False

    def opening(self) -> dict[str, Any]:
        """What this run of the driver adds to the first event it writes."""
        return {}

    @abstractmethod
    def next_trial(self) -> TrialRecord | None:
        """Start or resume the next trial; None if there is nothing, now or at all."""

    @abstractmethod
    def has_work(self) -> bool:
        """Whether `next_trial` would start one."""

    @abstractmethod
    def is_over(self, record: TrialRecord) -> bool:
        """Decide about a trial on its latest result: True, with its end recorded, if it must leave its place."""

    @abstractmethod
    def finish(self) -> None:
        """Record the end of the study and what came out."""

    def write(self, event: str, **fields: Any) -> None:
        """Append an event, apply it to the state, tell the observers."""
        record = self.ledger.append(event, **fields)
        self.state.apply(record)
        for observer in self.observers:
            observer.on_event(record)

    def write_start(self, trial: str, experiment: Experiment, **fields: Any) -> TrialRecord:
        """Record that a trial starts or goes on."""
        config = experiment.to_dict()
        write_text(self.trial_directory(trial) / "config.yaml", dump_yaml(config))
        self.active.add(trial)
        self.active_since[trial] = time.monotonic()
        self.write(
            "trial_started",
            trial=trial,
            **fields,
            config=config,
            fingerprint=experiment.fingerprint,
            recipe=experiment.recipe_fingerprint,
            seed=experiment.seed,
            devices=self.resources.devices,
        )
        return self.state.trials[trial]

    def trial_directory(self, trial: str) -> Path:
        """Folder of a trial."""
        return self.directory / "trials" / trial

    def on_report(self, trial: str, report: dict[str, Any]) -> bool:
        """Record what a trial reported; True if it must stop now."""
        if trial not in self.active:
            return True
        if "usage" in report:
            images, metrics = report["usage"]
            self.write("usage", trial=trial, images=images, metrics=metrics)
        if "progress" in report:
            images, speed = report["progress"]
            for observer in self.observers:
                observer.on_progress(trial, images, speed)
        elif "samples" in report:
            self._on_samples(trial, *report["samples"])
        elif "result" in report:
            return self._on_result(trial, report["result"])
        elif "outcome" in report:
            self.end(trial, report["outcome"]["state"], report["outcome"]["reason"])
        return False

    def _on_samples(self, trial: str, images: int, name: str) -> None:
        path = f"trials/{trial}/samples/{name}"
        if self.state.trials[trial].samples.get(images) != path:  # written again after a resume
            self.write("samples", trial=trial, images=images, path=path)

    def _on_result(self, trial: str, result: dict[str, Any]) -> bool:
        record, images = self.state.trials[trial], result["images"]
        if images <= record.images:
            return False  # the ledger has it, and what was decided on it
        if (self.trial_directory(trial) / "samples" / grid_name(images)).is_file():
            # Nothing new, unless the machine was lost after the checkpoint had arrived and before its messages had:
            # the trial then goes on from the checkpoint, which has the result, and draws no samples again.
            self._on_samples(trial, images, grid_name(images))
        self.write("result", trial=trial, images=images, metrics=result["metrics"], identities=result["identities"])
        self.write("checkpoint", trial=trial, images=images, path=f"trials/{trial}/checkpoints/latest.pt")
        return self.is_over(record)

    def end(self, trial: str, state: str, reason: str | None = None, *, is_paused: bool = False) -> None:
        """Record the end of a trial; a paused one waits at its checkpoint until the stopping rule resumes it."""
        self.active.discard(trial)
        images = self.state.trials[trial].images
        self.write("trial_ended", trial=trial, state=state, reason=reason, images=images, paused=is_paused or None)

    def on_lost(self, trial: str, reason: str) -> None:
        """A process of the trial is gone: start it again from its last checkpoint, but not for ever."""
        if self.state.trials[trial].losses < self.resources.max_failures:
            self.write("trial_lost", trial=trial, reason=reason)
            self.end(trial, "interrupted", reason)
        else:
            self.end(trial, "failed", reason)

    def interrupt(self) -> None:
        """Record that the trials still running were interrupted; the next driver goes on with them."""
        self.is_stopping = True
        for trial in sorted(self.active):
            self.end(trial, "interrupted")
