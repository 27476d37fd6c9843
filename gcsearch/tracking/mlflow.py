"""The MLflow tracker: a view of the ledger that a background thread keeps up to date.

The ledger is the truth, MLflow a copy. So nothing here may slow or stop a study: events wait in memory while the store
does not answer, and whatever is missing is written when the study is run or synced again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gcsearch.errors import TrackingError
from gcsearch.ledger import Event, StudyState
from gcsearch.tracking.base import Tracker
from gcsearch.tracking.store import Store, StoredRun, check_uri, is_permanent, sqlite_path
from gcsearch.tracking.ui import experiment_links
from gcsearch.tracking.view import RunUpdate, leaderboard, study_page, study_update, trial_update

logger = logging.getLogger(__name__)

STUDY_FILES: Final = ("study.yaml", "environment.txt")
"""Files of the study's folder that its run carries."""

LAST_TRIES: Final = 4
"""Failures in a row, with nothing written in between, after which a closed tracker gives up."""

Numbered = tuple[int, Event]
"""An event with its number among the events of its run, from 1."""


class MLflowTracker(Tracker):
    """Writes a study into MLflow: one run a trial, and one for the study.

    A local store (sqlite) is created here, before any other process can touch it. A server is first spoken to by the
    background thread, so that a dead one costs nothing.

    Args:
        uri: Tracking URI, e.g. ``sqlite:///mlflow.db`` or ``http://host:5000``.
        directory: The study's folder.
        study: Name of the study, which becomes the name of the experiment.
        first_retry_s: Pause after a failure; doubles up to `last_retry_s`.
        last_retry_s: Longest pause.

    Raises:
        TrackingError: The URI, or the local store, cannot be used.
    """

    def __init__(
        self, uri: str, directory: Path, study: str, *, first_retry_s: float = 1.0, last_retry_s: float = 60.0
    ) -> None:
        check_uri(uri)
        self.uri = uri
        self.directory = directory
        self.study = study
        self._retry_s = (first_retry_s, last_retry_s)
        self._store: Store | None = None
        if sqlite_path(uri) is not None:
            try:
                self._store = Store(uri, study, directory)
            except Exception as error:
                raise TrackingError(
                    f"tracking: '{uri}' must be a usable MLflow store, got: {_first_line(error)}. Repair or move the "
                    "file, or choose another --tracking; the ledger can be written again with `gcsearch sync`."
                ) from error
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._pending: dict[str, list[Numbered]] = {}
        self._counts: dict[str, int] = {}
        self._state = StudyState()
        self._runs: dict[str, StoredRun] | None = None
        self._page: dict[str, Any] | None = None
        self._files: dict[str, bytes] = {}
        self._received = self._done = 0
        self._is_down = self._has_failed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)
        self._thread.start()

    @property
    def run_ids(self) -> dict[str, str]:
        """MLflow's run ids by trial, as far as they are known; the study's own run is under ``""``."""
        return {trial: run.run_id for trial, run in dict(self._runs or {}).items()}

    @property
    def num_received(self) -> int:
        """Events and files that were handed over."""
        return self._received

    @property
    def num_unwritten(self) -> int:
        """Events and files that are not in MLflow yet."""
        return self._received - self._done

    def links(self, base_url: str | None = None) -> list[tuple[str, str]]:
        """Addresses of the study's pages, as (label, URL).

        Args:
            base_url: Where the MLflow UI answers; by default the tracking server, or the UI's usual address.
        """
        if self._store is None:
            return []
        base_url = base_url or (self.uri if self.uri.startswith("http") else "http://127.0.0.1:5000")
        runs = [run_id for trial, run_id in sorted(self.run_ids.items()) if trial]
        metric = self._state.study.get("objective", {}).get("key", "eval/fid")
        return experiment_links(base_url, self._store.experiment_id, runs, metric)

    def on_event(self, event: Event) -> None:
        if not self._closing.is_set():
            self._received += 1
            self._events.put(event)

    def attach(self, files: Mapping[str, bytes]) -> None:
        """Put files into the study's run, each in place of an older one of its name, once its events are written.

        They are not in the ledger: what can be computed from it is computed again.

        Args:
            files: Content by name, e.g. ``figures/finalists.png``.
        """
        if not self._closing.is_set():
            self._received += len(files)
            self._events.put(dict(files))

    def close(self, timeout_s: float = 10.0) -> int:
        self._closing.set()
        self._events.put(None)
        self._thread.join(timeout_s)
        if self.num_unwritten:
            logger.warning(
                "MLflow: %d of %d events and figures of this study are not written to %s. Nothing is lost: all is in "
                "the ledger; running the command again, or `gcsearch sync`, writes it.",
                self.num_unwritten, self._received, self.uri,
            )  # fmt: skip
        return self.num_unwritten

    def _work(self) -> None:
        """The thread: take events, write them, wait and try again if the store fails."""
        pause, num_last_tries, done = self._retry_s[0], 0, 0
        while True:
            try:
                if self._drain():
                    if self._store is not None and self._has_failed:  # a run may be there twice by now
                        self._runs = self._store.runs_of(self._study_id)
                    return
                self._write_pending()
            except Exception as error:  # whatever happens to a copy, the study goes on
                self._runs = None
                self._has_failed = True
                if not self._is_down:
                    self._is_down = True
                    logger.warning(
                        "MLflow at %s cannot be written to (%s). The study goes on, its events wait.",
                        self.uri, _first_line(error),
                    )  # fmt: skip
                if self._closing.is_set():
                    # A server that hiccups gets the rest; one that is away holds nobody up.
                    num_last_tries = num_last_tries + 1 if self._done == done else 1
                    if num_last_tries == LAST_TRIES:
                        return
                    time.sleep(self._retry_s[0])
                else:
                    self._closing.wait(pause)
                pause, done = min(2 * pause, self._retry_s[1]), self._done
            else:
                pause = self._retry_s[0]
                if self._is_down:
                    self._is_down = False
                    logger.warning("MLflow at %s answers again; everything is written.", self.uri)

    def _drain(self) -> bool:
        """Take all events that wait, or wait for one; True if the tracker is closed and nothing is left to do."""
        with contextlib.suppress(queue.Empty):
            while True:
                may_wait = not self._pending and not self._files and not self._closing.is_set()
                event = self._events.get(block=may_wait)
                if event is not None and "event" not in event:
                    self._files |= event
                elif event is not None:
                    self._state.apply(event)
                    key = event.get("trial", "")
                    self._counts[key] = self._counts.get(key, 0) + 1
                    self._pending.setdefault(key, []).append((self._counts[key], event))
        return not self._pending and not self._files and self._closing.is_set()

    def _write_pending(self) -> None:
        if not self._pending and not self._files:
            return
        if self._store is None:
            self._store = Store(self.uri, self.study, self.directory)
        if self._runs is None:
            self._runs = self._store.runs_of(self._study_id)
        for key in sorted(self._pending, key=lambda key: (key == "", key)):  # the study last: it sums up the others
            self._write_group(self._store, self._runs, key, self._pending[key])
            self._done += len(self._pending.pop(key))
        if (page := study_page(self._state)) != self._page:
            self._store.write_page(page)
            self._page = page
        self._write_files(self._store, self._runs)

    def _write_files(self, store: Store, runs: dict[str, StoredRun]) -> None:
        """Write the files that wait; those of one call replace each other, so nothing is there twice."""
        for name in list(self._files):
            try:
                store.write_bytes(runs[""], self._files[name], name)
            except Exception as error:
                if not is_permanent(error):
                    raise
                logger.warning("MLflow refused the file %s: %s", name, _first_line(error))
            del self._files[name]
            self._done += 1

    @property
    def _study_id(self) -> str:
        return str(self._state.study.get("study_id", self.study))

    def _write_group(self, store: Store, runs: dict[str, StoredRun], key: str, events: list[Numbered]) -> None:
        """Write events of one run in one go; if MLflow refuses them, one by one, dropping what it refuses."""
        position = runs[key].position if key in runs else 0
        fresh = [(index, event) for index, event in events if index > position]
        if not fresh:
            return
        try:
            self._write_events(store, runs, key, fresh)
        except Exception as error:
            if not is_permanent(error):
                raise
            if len(fresh) > 1:
                for one in fresh:
                    self._write_group(store, runs, key, [one])
            else:
                logger.warning("MLflow refused '%s' %s: %s", fresh[0][1]["event"], key, _first_line(error))
                if key in runs:
                    runs[key].position = fresh[0][0]

    def _write_events(self, store: Store, runs: dict[str, StoredRun], key: str, fresh: list[Numbered]) -> None:
        events = [event for _, event in fresh]
        update = trial_update(events, self._state.study) if key else study_update(events, self._state)
        tags = {"gcsearch.study": self.study, "gcsearch.study_id": self._study_id}
        if key not in runs:
            runs[key] = store.create_run(update, tags | update.tags)
        if not key:
            if update.end_time is not None:
                store.write_table(runs[key], leaderboard(self._state), "leaderboard.json")
            for name in STUDY_FILES:
                store.write_file(runs[key], self.directory / name)
        if update == RunUpdate():  # a checkpoint, for example; the next write says that it is behind us
            runs[key].position = fresh[-1][0]
        else:
            store.write(runs[key], update, fresh[-1][0])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
