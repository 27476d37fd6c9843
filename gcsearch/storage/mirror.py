"""Sends a study to its filesystem while it runs.

Object stores cannot append, lock or rename, and are slow; so a study always lives in a folder of this machine, and is
mirrored. What is there is consistent at any instant: the ledger goes last, as it was before the files that it speaks of
were read. Training never waits for it.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from gcsearch.errors import StudyError
from gcsearch.ledger import LEDGER_NAME, Event
from gcsearch.storage.remote import LOCK_NAME, RemoteStudies, read_index, reason, stamp, write_index

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 20.0
"""Time between two signs of life in the lock of a running study."""
LOCK_EXPIRES_S: Final = 120.0
"""Age of the last sign of life from which on the lock is that of a dead driver. Clocks must agree to a minute."""
SEND_EVERY_S: Final = 1.0
"""Shortest time between two rounds of sending."""
LOOK_EVERY_S: Final = 15.0
"""Longest time between them: a checkpoint between two rungs is not announced by an event."""
FAILURES = (pa.ArrowException, OSError, StudyError)


class Mirror:
    """An observer of a study's driver, with a thread that sends.

    Args:
        remote: Where to.
        name: The study.
    """

    def __init__(self, remote: RemoteStudies, name: str) -> None:
        self.remote = remote
        self.name = name
        self.owner = uuid.uuid4().hex
        self.folder = remote.local / name
        self._index: dict[str, list[int]] = {}
        self._sent_events = -1
        self._wake = threading.Event()
        self._is_closing = threading.Event()
        self._taken_over: str | None = None
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def on_event(self, event: Event) -> None:
        """An event was written to the ledger.

        Raises:
            StudyError: Another driver has taken the study over.
        """
        del event
        if self._taken_over is not None:
            raise StudyError(self._taken_over)
        self._wake.set()

    def on_progress(self, trial: str, images: int, images_per_second: float) -> None:
        """Nothing to send."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Holds the lock, brings the local copy up to date, and sends for the length of the block; then sends the rest.

        Raises:
            StudyError: Another driver is writing the study; or the rest could not be sent, which the text says.
        """
        try:
            self._take_lock()
        except (pa.ArrowException, OSError) as error:
            raise StudyError(f"--studies {self.remote.uri}: must be writable, but: {reason(error)}.") from None
        self._index = read_index(self.remote.pull(self.name))
        self._thread.start()
        try:
            yield
        finally:
            self._is_closing.set()
            self._wake.set()
            self._thread.join()
            if self._taken_over is None:
                self._send_rest()

    def sweep(self) -> None:
        """Send what has changed since the last sweep, the ledger last."""
        ledger = self.folder / LEDGER_NAME
        events = ledger.read_bytes() if ledger.exists() else b""
        events = events[: events.rfind(b"\n") + 1]
        has_changed = False
        for path in sorted(self.folder.rglob("*")):
            relative = path.relative_to(self.remote.local).as_posix()
            here = stamp(path)
            if path.name.startswith(".") or path == ledger or not path.is_file() or here is None:
                continue
            if self._index.get(relative, [])[:2] != here:
                try:
                    self.remote.send(relative)
                except FileNotFoundError:
                    if not path.exists():
                        continue  # gone since it was listed
                    raise
                self._index[relative] = [*here, self.remote.modified(relative)]
                has_changed = True
        if has_changed:
            write_index(self.folder, self._index)
        if len(events) > self._sent_events:
            self.remote.send(f"{self.name}/{LEDGER_NAME}", events)
            self._sent_events = len(events)

    def _run(self) -> None:
        delay, beat = SEND_EVERY_S, time.monotonic()
        while not self._is_closing.is_set():
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()
            try:
                if time.monotonic() - beat > HEARTBEAT_S:
                    self._renew_lock()
                    beat = time.monotonic()
                if self._taken_over is not None:
                    return
                self.sweep()
                delay = SEND_EVERY_S
            except FAILURES as error:
                if delay == SEND_EVERY_S:
                    logger.warning("%s does not answer (%s). The study goes on.", self.remote.uri, reason(error))
                delay = min(2 * delay, 60.0)
                self._wake.set()
            self._is_closing.wait(delay)

    def _send_rest(self) -> None:
        for delay in (0.5, 2.0, 5.0, None):
            try:
                self.sweep()
                self.remote.delete(f"{self.name}/{LOCK_NAME}")
                return
            except FAILURES as error:
                if delay is None:
                    raise StudyError(
                        f"{self.remote.uri}/{self.name}: the last results could not be sent ({reason(error)}). They "
                        f"are in {self.folder}; the same command sends them when the filesystem answers."
                    ) from None
                time.sleep(delay)

    def _write_lock(self) -> None:
        now = datetime.now(UTC).isoformat()
        content = {"owner": self.owner, "host": platform.node(), "pid": os.getpid(), "time": now}
        self.remote.send(f"{self.name}/{LOCK_NAME}", json.dumps(content).encode())

    def _holder(self) -> dict[str, Any]:
        """Who holds the lock; empty if nobody does."""
        path = f"{self.name}/{LOCK_NAME}"
        return dict(json.loads(self.remote.read(path))) if self.remote.exists(path) else {}

    def _renew_lock(self) -> None:
        holder = self._holder()
        if holder.get("owner", self.owner) != self.owner:
            self._taken_over = f"{self.remote.uri}/{self.name}: {_describe(holder)} has taken this study over."
            return
        self._write_lock()

    def _take_lock(self) -> None:
        for _ in range(2):  # of two that come at once, the one that writes last has it
            holder = self._holder()
            is_ours = holder.get("owner") == self.owner
            if holder and not is_ours and not _is_dead(holder):
                raise StudyError(
                    f"{self.remote.uri}/{self.name}: {_describe(holder)} is writing this study. Wait for it, stop it, "
                    f"or choose another --name. If it is dead, the study is free {LOCK_EXPIRES_S:.0f} s after its last "
                    "sign of life."
                )
            if not is_ours:
                self._write_lock()
                time.sleep(0.2)


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether a lock is that of a driver that is gone."""
    if (
        holder["host"] == platform.node()
        and not Path(f"/proc/{holder['pid']}").exists()
        and Path("/proc/self").exists()
    ):
        return True
    age = datetime.now(UTC) - datetime.fromisoformat(holder["time"])
    return age.total_seconds() > LOCK_EXPIRES_S


def _describe(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"
