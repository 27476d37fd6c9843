"""The driver as Ray Tune sees it: a searcher and a scheduler, both thin, neither with a state of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from gcsearch.config.imports import search_paths
from gcsearch.tuning.driver import Driver
from gcsearch.tuning.trial import MESSAGE


class LedgerSearcher(Searcher):
    """Hands out the driver's next trial when there is room for it.

    Args:
        driver: The driver.
        concurrent: Trials at a time. Waiting for room here, rather than queueing suggestions, lets every suggestion see
            all results so far.
    """

    def __init__(self, driver: Driver, concurrent: int) -> None:
        super().__init__()
        self.driver = driver
        self.concurrent = concurrent

    def suggest(self, trial_id: str) -> Any:
        """Configuration for `run_trial`, None if there is nothing to start now, FINISHED when nothing is left."""
        del trial_id
        if len(self.driver.active) >= self.concurrent:
            return None
        record = self.driver.next_trial()
        if record is None:  # a result still to come may resume a paused trial
            return None if self.driver.active else str(Searcher.FINISHED)
        resources = self.driver.study.resources
        return {
            "trial": record.trial,
            "experiment": record.config,
            "directory": str(self.driver.trial_directory(record.trial).resolve()),
            "reported_images": record.images,
            "cpus": resources.cpus_per_worker,
            "gpus": resources.gpus_per_worker,
            "paths": search_paths(self.driver.study.base),
        }

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
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip() or 'no message'}"


class LedgerScheduler(FIFOScheduler):
    """Passes reports to the driver and its decisions to Tune."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.driver = driver

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE, as the driver decides."""
        stop = self.driver.on_report(trial.config["trial"], json.loads(result[MESSAGE]))
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The training function returned; it has told its outcome before."""
        if trial.config["trial"] in self.driver.active:
            self.driver.end(trial.config["trial"], "failed", "the training ended without saying how")

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The trial's process raised or died."""
        name = trial.config["trial"]
        if name in self.driver.active:
            self.driver.end(name, "failed", _reason(trial)[-2000:])

    def __getstate__(self) -> dict[str, Any]:
        return {}
