"""One training over several processes, on a Ray of its own: what `gcsearch train --workers` runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gcsearch.config import Experiment
from gcsearch.errors import TrialFailed
from gcsearch.ledger import LEDGER_NAME, Event, LedgerWriter, TrialRecord
from gcsearch.training.checkpoint import load_own_checkpoint
from gcsearch.training.session import TRIAL, TrainingRecord
from gcsearch.training.teacher_stage import prepare
from gcsearch.tuning.cluster import ray_cluster
from gcsearch.tuning.settings import Resources


class OneTraining:
    """The only trial there is, for `gcsearch.tuning.execution`.

    Args:
        record: Its ledger.
        max_failures: How often it is started again after a process of it died.
        on_progress: Told of the trial, images seen and images per second.

    Attributes:
        outcome: State and reason, once it has ended.
    """

    def __init__(
        self, record: TrainingRecord, max_failures: int, on_progress: Callable[[str, int, float], None]
    ) -> None:
        self.record = record
        self.max_failures = max_failures
        self.on_progress = on_progress
        self.active: set[str] = set()
        self.outcome: tuple[str, str | None] | None = None
        self._has_begun = False

    def next_trial(self) -> TrialRecord | None:
        if self.active or self.outcome is not None:
            return None
        self.active.add(TRIAL)
        started = self.record.start() if self._has_begun else self.record.begin()
        self._has_begun = True
        return started

    def trial_directory(self, trial: str) -> Path:
        del trial
        return self.record.directory

    def on_report(self, trial: str, report: dict[str, Any]) -> bool:
        if "usage" in report:
            self.record.usage(*report["usage"])
        if "progress" in report:
            self.on_progress(trial, *report["progress"])
        elif "samples" in report:
            images, name = report["samples"]
            self.record.samples(images, self.record.directory / "samples" / name)
        elif "result" in report and report["result"]["images"] > self.record.reported_images:
            self.record.result(**report["result"])
        elif "outcome" in report:
            self._end(report["outcome"]["state"], report["outcome"]["reason"])
        return False

    def on_lost(self, trial: str, reason: str) -> None:
        if self.record.state.trials[trial].losses >= self.max_failures:
            self._end("failed", reason)
            return
        self.active.discard(trial)
        self.record.write("trial_lost", trial=trial, reason=reason)
        images = self.record.reported_images
        self.record.write("trial_ended", trial=trial, state="interrupted", reason=reason, images=images)

    def interrupt(self) -> None:
        """Record that a training which still runs was interrupted."""
        if self.active:
            self._end("interrupted", None)

    def _end(self, state: str, reason: str | None) -> None:
        self.active.discard(TRIAL)
        self.outcome = state, reason
        self.record.end(state, reason)


def train_on_workers(
    experiment: Experiment,
    directory: Path,
    *,
    cpus_per_worker: int = 1,
    gpus_per_worker: int = 0,
    max_failures: int = 1,
    paths: Sequence[str] = (),
    on_event: Callable[[Event], None] = lambda _: None,
    on_progress: Callable[[str, int, float], None] = lambda *_: None,
) -> tuple[str, str | None]:
    """Train one experiment in ``training.num_workers`` processes of this machine, into a folder.

    Goes on from the folder's checkpoint if there is one, which any number of processes may have written.

    Args:
        experiment: The recipe.
        directory: Gets ledger, configuration, checkpoints and samples.
        cpus_per_worker: CPU cores of each process, and its threads.
        gpus_per_worker: GPUs of each process.
        max_failures: How often the training is started again from its last checkpoint after a process of it died.
        paths: Folders of the user's own modules.
        on_event: Told of every event, those of earlier runs first.
        on_progress: Told of the trial, images seen and images per second.

    Returns:
        State and reason of the end: ``completed``, ``diverged`` or ``interrupted``.

    Raises:
        CheckpointError: The folder's checkpoint cannot be read, or belongs to another experiment.
        ConfigError: The processes do not fit into this machine.
        TrialFailed: The training raised, or its processes died too often.
        WeightsError: Published weights that the experiment needs cannot be had. Nothing was written.
        TeacherError: The training of its teacher diverged. Nothing was written.
    """
    teacher = prepare(experiment)
    resources = Resources(
        workers=experiment.training.num_workers, cpus_per_worker=cpus_per_worker, gpus_per_worker=gpus_per_worker
    )
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        # A wrong one is said before Ray starts.
        load_own_checkpoint(directory / "checkpoints" / "latest.pt", experiment)
        training = OneTraining(
            TrainingRecord(experiment, directory, ledger, on_event, teacher), max_failures, on_progress
        )
        try:
            with ray_cluster(None) as nodes:
                from gcsearch.tuning.execution import run_trials  # imports Ray, which `ray_cluster` has set up

                run_trials(training, resources, list(paths), nodes)
        except KeyboardInterrupt:
            training.interrupt()
        except BaseException:
            training.interrupt()
            raise
    state, reason = training.outcome or ("interrupted", None)
    if state == "failed":
        raise TrialFailed(f"{directory}: the training must end well, but it failed: {reason}.")
    return state, reason
