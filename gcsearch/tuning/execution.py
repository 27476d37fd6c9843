"""Trials on a Ray cluster: hands them to Ray Tune one by one and passes on what they report.

Tune places processes and carries messages; it keeps nothing. Who is next, what a report means and what becomes of a
trial whose process died is decided by `Trials`: the driver of a study, or a single training.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from ray import cloudpickle
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from gcsearch.config import Experiment
from gcsearch.errors import StudyError
from gcsearch.ledger import TrialRecord
from gcsearch.tuning.cluster import PLACE_TIMEOUT_S, TRIAL_CPUS, Nodes, Places, concurrency, describe_free
from gcsearch.tuning.memory import memory_kills_as_losses
from gcsearch.tuning.settings import Resources
from gcsearch.tuning.shipping import Depot
from gcsearch.tuning.trial import MESSAGE, run_trial, run_trial_on_workers, why_lost
from gcsearch.tuning.workspaces import open_folder


class Trials(Protocol):
    """Who decides about trials."""

    active: set[str]

    def next_trial(self) -> TrialRecord | None:
        """Start the next trial, if there is one now."""

    def trial_directory(self, trial: str) -> Path:
        """Folder of a trial."""

    def on_report(self, trial: str, report: dict[str, Any]) -> bool:
        """Take a message of a trial; True if it must stop now."""

    def on_lost(self, trial: str, reason: str) -> None:
        """A process of the trial is gone, and the trial with it."""


class Execution:
    """What Tune's two hooks share.

    Args:
        trials: Who decides.
        resources: What a trial gets.
        concurrent: Trials at a time.
        paths: Folders of the user's own modules.
        modules: The user's own modules as an archive, for machines without these folders.
        code: What gcsearch a trial must find on its node; None if there is only this machine.
        depot: Takes in the files that recipes read, for machines without them; None if all trials run on this one.
        folder: Folder of the study, for machines that do not see it: from `gcsearch.tuning.workspaces.open_folder`.

    Attributes:
        halted: Why nothing more is started: what no trial can get past.
    """

    def __init__(
        self,
        trials: Trials,
        resources: Resources,
        concurrent: int,
        paths: list[str],
        modules: bytes = b"",
        code: str | None = None,
        depot: Depot | None = None,
        folder: bytes = b"",
    ) -> None:
        self.trials = trials
        self.resources = resources
        self.concurrent = concurrent
        self.paths = paths
        self.modules = modules
        self.code = code
        self.depot = depot
        self.folder = folder
        self.places = Places()
        self.is_interrupted = False
        self.halted: str | None = None
        self._heard: dict[str, float] = {}
        self._ended: set[str] = set()

    def config(self, record: TrialRecord) -> dict[str, Any]:
        """What a trial's process is told."""
        self.expect(record.trial)
        depot = self.depot
        return {
            "trial": record.trial,
            "experiment": record.config,
            "directory": str(self.trials.trial_directory(record.trial).resolve()),
            "folder": self.folder,
            "start": record.since_order,
            "reported_images": record.images,
            "workers": self.resources.workers,
            "cpus": self.resources.cpus_per_worker,
            "gpus": self.resources.gpus_per_worker,
            "paths": self.paths,
            "modules": self.modules,
            "code": self.code,
            "files": b"" if depot is None else depot.manifest(Experiment.from_dict(record.config)),
        }

    def expect(self, trial: str) -> None:
        """A trial was handed out: its processes have the time that a place may take, to say their first word."""
        self._heard[trial] = time.monotonic() + PLACE_TIMEOUT_S
        self._ended.discard(trial)

    def hear(self, trial: str) -> None:
        """A trial has said something."""
        self._heard[trial] = time.monotonic()

    def end_if_hung(self, trial: Any) -> None:
        """End the process of a trial, as Tune knows it, that has been silent for too long. Tune then reports its loss.

        Nothing gentler would do: what hangs does not hear.
        """
        name, actor = trial.config["trial"], trial.temporary_state.ray_actor
        if actor is None or name in self._ended or name not in self.trials.active:
            return
        if time.monotonic() - self._heard[name] > 60 * self.resources.hang_minutes:
            import ray

            self._ended.add(name)
            ray.kill(actor)

    def why_gone(self, trial: str, reason: str) -> str:
        """Why the process of a trial is gone, given what Ray says of it."""
        if trial in self._ended:
            return (
                f"it hung, and was ended: no step and no report for {self.resources.hang_minutes:g} minutes. If it was "
                "only slow, raise resources.hang_minutes"
            )
        return reason

    def halt(self, reason: str) -> None:
        """Start nothing more, and say why."""
        self.halted = self.halted or reason


@contextlib.contextmanager
def interruptible(execution: Execution) -> Iterator[None]:
    """Ctrl-C ends the trials even if the exception it raises is lost.

    A KeyboardInterrupt that comes up inside one of Ray's callbacks from C is printed and forgotten there. So that there
    was one is noted, and raised again where Tune asks us, several times a second.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def note(number: int, frame: FrameType | None) -> None:
        del number, frame
        execution.is_interrupted = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class LedgerSearcher(Searcher):
    """Hands out the next trial when there is room for it.

    Waiting for room here, rather than queueing suggestions, lets every suggestion see all results so far.
    """

    def __init__(self, execution: Execution) -> None:
        super().__init__()
        self.execution = execution

    def suggest(self, trial_id: str) -> Any:
        """Configuration of a trial, None while all places are taken, FINISHED when nothing is left."""
        del trial_id
        execution = self.execution
        active = execution.trials.active
        if execution.halted is None and len(active) < execution.concurrent:
            if not execution.places.are_free():
                return None
            record = execution.trials.next_trial()
            if record is not None:
                return execution.config(record)
        # A trial that is active may still lose its process, and then it is next.
        return None if active and execution.halted is None else str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to do: the scheduler has told the driver."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a new driver is rebuilt from the ledger."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _reason(trial: Any) -> str:
    """Why Tune says that a trial failed. From its local file: what `trial.get_pickled_error` reads is there later."""
    path = trial.pickled_error_file
    if not path or not Path(path).exists():
        return "its process died, or could not be started"
    error = cloudpickle.loads(Path(path).read_bytes())
    return why_lost(getattr(error, "cause", None) or error)


def _forget_finished(tune_controller: Any) -> None:
    """Let go of what Tune keeps about trials that are over: the ledger has it, and a study may have thousands.

    Tune goes through its list several times a second, and keeps every trial's configuration and last result. One that
    is over stays in the list, since Tune wants one at its end.
    """
    trials = tune_controller.get_trials()
    for trial in [trial for trial in trials if trial.is_finished()][:-1]:
        trials.remove(trial)
        # Tune still counts the trial as stopped or failed; it is as small as can be.
        trial.run_metadata.last_result = {}
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()
        trial.config.clear()
        trial.evaluated_params, trial.experiment_tag = {}, ""
        trial.invalidate_json_state()


class LedgerScheduler(FIFOScheduler):
    """Passes reports on, and decisions to Tune."""

    def __init__(self, execution: Execution) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.execution = execution
        self._waiting_since: float | None = None

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The next trial that waits; ends the wait if there is no place for any, and trials that hang.

        Tune asks several times a second.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, and Ray has lost it.
        """
        if self.execution.is_interrupted:
            raise KeyboardInterrupt
        _forget_finished(tune_controller)
        chosen = super().choose_trial_to_run(tune_controller)
        unfinished = [trial for trial in tune_controller.get_trials() if not trial.is_finished()]
        for trial in unfinished:
            if trial.status == "RUNNING":
                self.execution.end_if_hung(trial)
            else:
                self.execution.expect(trial.config["trial"])  # one that waits for its place does not hang
        statuses = [trial.status for trial in unfinished]
        if not statuses or any(status != "PENDING" for status in statuses):
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = time.monotonic()
        elif time.monotonic() - self._waiting_since > PLACE_TIMEOUT_S:
            raise StudyError(describe_free(self.execution.resources))
        return chosen

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE, as is decided."""
        name, message = trial.config["trial"], json.loads(result[MESSAGE])
        self.execution.hear(name)
        if "placed" in message:
            self.execution.places.take(name, message["placed"])
            return str(TrialScheduler.CONTINUE)
        if "unplaced" in message:
            self.execution.halt(describe_free(self.execution.resources))
            return str(TrialScheduler.CONTINUE)
        if "halted" in message:
            self.execution.halt(message["halted"])
            return str(TrialScheduler.CONTINUE)
        stop = self.execution.trials.on_report(name, message)
        if stop:
            self.execution.places.leave(name)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The training function returned; it has told its outcome before."""
        self._gone(trial.config["trial"], "the training ended without saying how")

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The trial's process raised or died."""
        self._gone(trial.config["trial"], _reason(trial))

    def _gone(self, name: str, reason: str) -> None:
        self.execution.places.leave(name)
        # A trial without a place, or with a full disk, has lost nothing: it stays active, and is interrupted with the
        # study.
        if name in self.execution.trials.active and self.execution.halted is None:
            self.execution.trials.on_lost(name, self.execution.why_gone(name, reason))

    def __getstate__(self) -> dict[str, Any]:
        return {}


def run_trials(
    trials: Trials,
    resources: Resources,
    paths: list[str],
    nodes: Nodes,
    modules: bytes = b"",
    code: str | None = None,
    root: Path | None = None,
) -> None:
    """Run trials until there are no more.

    Args:
        trials: Who decides.
        resources: What a trial gets.
        paths: Folders of the user's own modules.
        nodes: Resources of the cluster.
        modules: The user's own modules as an archive, for machines of the cluster without these folders.
        code: What gcsearch a trial must find on its node; None if there is only this machine. Where there are others,
            they get the files of this one that they lack.
        root: Folder in which the trials' are, if there are other machines: they need not see it.

    Raises:
        ConfigError: Not even one trial fits into the cluster.
        StudyError: A trial found no place for minutes, though it fits: somebody else has it. Or a disk is full.
    """
    import ray
    from ray import tune

    concurrent = concurrency(resources, nodes)
    scratch = Path(tempfile.mkdtemp(prefix="gcsearch-tune-"))
    depot = None if code is None else Depot(ray.put)
    if resources.workers == 1:
        demand = {"cpu": float(resources.cpus_per_worker), "gpu": resources.gpus_per_worker}
        trainable = tune.with_resources(run_trial, demand)
    else:
        # The trial's own process only passes messages on; its workers have places of their own.
        trainable = tune.with_resources(run_trial_on_workers, {"cpu": TRIAL_CPUS})
    try:
        with contextlib.nullcontext(b"") if root is None else open_folder(root) as folder:
            execution = Execution(trials, resources, concurrent, paths, modules, code, depot, folder)
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    num_samples=-1,
                    search_alg=LedgerSearcher(execution),
                    scheduler=LedgerScheduler(execution),
                    # A process that waits for Ray Train cannot be given another trial: Tune would wait for ever.
                    reuse_actors=resources.workers == 1,
                ),
                run_config=tune.RunConfig(
                    name="tune", storage_path=str(scratch), verbose=0, checkpoint_config=tune.CheckpointConfig()
                ),
            )
            with interruptible(execution), memory_kills_as_losses():
                tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if execution.halted is not None:
        raise StudyError(execution.halted)
