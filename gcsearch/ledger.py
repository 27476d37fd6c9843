"""The ledger of a study: one append-only file of events, and the state it adds up to.

Everything else that a study shows (sampler, stopping rule, MLflow, reports, exports) is a view of these events. A line
is one JSON object with at least `event` and `time`; `ledger.jsonl` has one writer, the driver, which flushes every line
to disk before it acts on it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from gcsearch.errors import StudyError, disk_full, is_disk_full

logger = logging.getLogger(__name__)

LEDGER_NAME: Final = "ledger.jsonl"

State = Literal["running", "completed", "stopped", "diverged", "failed", "interrupted"]
ENDED: Final = ("completed", "stopped", "diverged", "failed")
"""States that are final: such a trial never runs again."""

Event = dict[str, Any]


def read_events(path: Path) -> list[Event]:
    """All events of a ledger file, in order; an empty list if there is no file.

    A torn last line (the machine lost power while writing) is dropped with a warning.

    Raises:
        StudyError: Another line cannot be read.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    *complete, rest = lines
    events = []
    for number, line in enumerate(complete, start=1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or "event" not in event or "time" not in event:
                raise ValueError("it is not an event")
        except ValueError as error:
            raise StudyError(
                f"{path}:{number}: the line cannot be read ({error}). Restore the file, or remove that line if its "
                "event may be lost."
            ) from None
        events.append(event)
    if rest:
        logger.warning("%s:%d: dropped a torn last line of %d bytes.", path, len(lines), len(rest))
    return events


class LedgerWriter:
    """The only writer of a ledger. Holds a lock as long as it is open.

    A ledger to which nothing was ever written is gone when it is closed, with its folder if that was made for it: a
    study that is refused leaves nothing behind.

    Args:
        path: Ledger file; created if missing, a torn last line is cut off.

    Raises:
        StudyError: Another process holds the lock.
    """

    def __init__(self, path: Path) -> None:
        self._is_new_folder = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab", buffering=0)  # what could not be written is not written later
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise StudyError(
                f"{path}: another process is writing this study. Wait for it, stop it, or choose another --name."
            ) from None
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and flush it to disk.

        Args:
            event: Its type, e.g. ``result``.
            fields: Plain data; fields that are None are left out. Numbers must be finite.

        Returns:
            The event as written, with its time.

        Raises:
            StudyError: The disk is full. The file is as it was before.
        """
        record: Event = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        record |= {key: value for key, value in fields.items() if value is not None}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), size)
            if is_disk_full(error):
                raise StudyError(disk_full(self.path)) from None
            raise
        return record

    def close(self) -> None:
        """Release the lock."""
        if self._file.closed:
            return
        if os.fstat(self._file.fileno()).st_size == 0:
            self.path.unlink(missing_ok=True)
            if self._is_new_folder:
                with suppress(OSError):  # something else is in it
                    self.path.parent.rmdir()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RungResult:
    """Scores of a trial at one rung.

    Attributes:
        images: The rung.
        metrics: Named numbers.
        identities: What each score means.
        time: When it was written.
        order: Number of its event in the ledger. What was known at some instant is what has no larger number: times
            may be equal, numbers are not.
    """

    images: int
    metrics: dict[str, float]
    identities: dict[str, str]
    time: str
    order: int = 0


@dataclasses.dataclass(kw_only=True)
class TrialRecord:
    """What the ledger knows about one trial.

    Attributes:
        trial: Its number, as text.
        kind: ``trial``, ``finalist`` or ``arm``.
        candidate: Of a finalist, the trial of the search whose recipe it trains again.
        arm: Of a training of an ablation, the name of its recipe.
        is_audit: Whether it ignores the stopping rule.
        is_paused: Whether it was interrupted by the stopping rule, which may resume it.
        started: Time of its first start.
        since: Time of its latest start or result, whichever is later.
        since_order: Number of that event in the ledger.
        ended: Time of its end; None while it runs.
        ended_order: Number of that event.
        losses: How often a process of the trial was gone before the trial was over.
        devices: GPUs that it holds now; without GPUs, its workers.
        device_seconds: Time it has held them, over all its starts, up to its last event.
    """

    trial: str
    kind: str = "trial"
    candidate: str | None = None
    arm: str | None = None
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    fingerprint: str = ""
    recipe: str = ""
    seed: int = 0
    state: State = "running"
    reason: str | None = None
    results: list[RungResult] = dataclasses.field(default_factory=list)
    samples: dict[int, str] = dataclasses.field(default_factory=dict)
    is_audit: bool = False
    is_paused: bool = False
    started: str = ""
    since: str = ""
    since_order: int = 0
    ended: str | None = None
    ended_order: int | None = None
    losses: int = 0
    devices: float = 1.0
    device_seconds: float = 0.0

    @property
    def images(self) -> int:
        """Images at the last result; 0 before the first."""
        return self.results[-1].images if self.results else 0

    def value(self, metric: str, use: str = "last", lower_is_better: bool = True) -> float | None:
        """Last or best value of a metric, e.g. ``eval/fid``; None without a result that has it."""
        values = [result.metrics[metric] for result in self.results if metric in result.metrics]
        if not values:
            return None
        if use == "last":
            return values[-1]
        return min(values) if lower_is_better else max(values)

    def at(self, images: int) -> RungResult | None:
        """Result at one rung; None if there is none."""
        index = bisect_left(self.results, images, key=lambda result: result.images)
        return self.results[index] if index < len(self.results) and self.results[index].images == images else None

    def value_at(self, metric: str, images: int) -> float | None:
        """Value of a metric at one rung; None if the trial has no result there."""
        result = self.at(images)
        return result.metrics.get(metric) if result else None


class StudyState:
    """State of a study: the sum of its events.

    Attributes:
        study: Fields of the first `study_started` event.
        trials: Trials by number, in order of their start.
        ended: Whether the last driver reached the end of the study.
        num_events: Events so far.
        earlier_wall_seconds: Wall time of the search in all runs of the driver before the present one, finalists not
            included.
        finalists: Fields of the last `finalists_started` event: who is trained again, with which seeds.
        ablation: Of an ablation, what its latest run was to train and judge; of a path, as far as it goes now.
        noise: Of an ablation, scores of its reference's weights on several sets of latents (`noise_scored` events).
        reached: Trials and their results by images, in order of the results.
        diverged: Trials that are diverged.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.study: Event = {}
        self.trials: dict[str, TrialRecord] = {}
        self.ended = False
        self.num_events = 0
        self.earlier_wall_seconds = 0.0
        self.finalists: Event | None = None
        self.ablation: dict[str, Any] | None = None
        self.noise: list[Event] = []
        self.reached: dict[int, list[tuple[TrialRecord, RungResult]]] = {}
        self.diverged: dict[str, TrialRecord] = {}
        self._seen: dict[str, datetime] = {}
        self._run_started: datetime | None = None
        self._last_time: datetime | None = None
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Add one event. A result that repeats an earlier rung of its trial changes nothing."""
        kind = event["event"]
        if kind == "study_started":
            self.study = self.study or event
            self.ablation = event.get("ablation", self.ablation)
            self.ended = False
            self._end_search(self._last_time)
            self._run_started = datetime.fromisoformat(event["time"])
        elif kind == "finalists_started":
            self.finalists = event
            self._end_search(datetime.fromisoformat(event["time"]))
        elif kind == "study_ended":
            self.ended = True
        elif kind == "ablation_extended":
            self.ablation = event["ablation"]
        elif kind == "noise_scored":
            self.noise.append(event)
        elif kind == "trial_started":
            self._start(event)
        elif "trial" in event:
            record = self.trials.get(event["trial"])
            if record is None:
                raise StudyError(f"the ledger has a '{kind}' of trial {event['trial']}, which was never started.")
            self._apply_to(record, event)
        self._last_time = datetime.fromisoformat(event["time"])
        self.num_events += 1

    def _end_search(self, time: datetime | None) -> None:
        """The search of one run of the driver ended here, if it had not before."""
        if self._run_started and time:
            self.earlier_wall_seconds += (time - self._run_started).total_seconds()
        self._run_started = None

    def _start(self, event: Event) -> None:
        record = self.trials.setdefault(event["trial"], TrialRecord(trial=event["trial"]))
        self._seen[record.trial] = datetime.fromisoformat(event["time"])
        for name in ("kind", "candidate", "arm", "params", "config", "fingerprint", "recipe", "seed", "devices"):
            if name in event:
                setattr(record, name, event[name])
        record.is_audit = event.get("audit", record.is_audit)
        record.started = record.started or event["time"]
        record.since, record.since_order = event["time"], self.num_events
        record.state, record.reason, record.is_paused = "running", None, False
        self.diverged.pop(record.trial, None)
        record.ended = record.ended_order = None

    def _apply_to(self, record: TrialRecord, event: Event) -> None:
        kind = event["event"]
        if record.ended is None:
            time = datetime.fromisoformat(event["time"])
            record.device_seconds += record.devices * (time - self._seen[record.trial]).total_seconds()
            self._seen[record.trial] = time
        if kind == "result" and event["images"] > record.images:
            # Names and identities are the same in all results, and come as new text with each.
            identities = event.get("identities", {})
            result = RungResult(
                images=event["images"],
                metrics={sys.intern(name): value for name, value in event["metrics"].items()},
                identities={sys.intern(name): sys.intern(identity) for name, identity in identities.items()},
                time=event["time"],
                order=self.num_events,
            )
            record.results.append(result)
            self.reached.setdefault(result.images, []).append((record, result))
            record.since, record.since_order = event["time"], self.num_events
        elif kind == "samples":
            record.samples[event["images"]] = event["path"]
        elif kind == "trial_lost":
            record.losses += 1
        elif kind == "trial_ended":
            record.state, record.reason = event["state"], event.get("reason")
            record.is_paused = event.get("paused", False)
            if record.state == "diverged":
                self.diverged[record.trial] = record
            else:
                self.diverged.pop(record.trial, None)
            record.ended, record.ended_order = event["time"], self.num_events

    def of_state(self, *states: str) -> Iterator[TrialRecord]:
        """Trials in one of the given states, in order."""
        return (record for record in self.trials.values() if record.state in states)

    def ranking(self, metric: str, *, lower_is_better: bool, use: str = "last") -> list[TrialRecord]:
        """Completed trials that have the metric, best first.

        Stopped trials never compete with full-length ones, nor finalists with the search that chose them.
        """
        scored = [
            (value, record)
            for record in self.of_state("completed")
            if record.kind != "finalist"
            if (value := record.value(metric, use, lower_is_better)) is not None
        ]
        return [record for _, record in sorted(scored, key=lambda pair: pair[0] if lower_is_better else -pair[0])]


class Ledger:
    """The events of a study in memory, with the state they add up to: what a simulated study leaves behind.

    Attributes:
        events: All events, in order.
        state: Their sum.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = []
        self.state = StudyState()
        for event in events:
            self.add(event)

    @property
    def trials(self) -> dict[str, TrialRecord]:
        """Trials by number, in order of their start."""
        return self.state.trials

    def add(self, event: Event) -> None:
        """Append one event."""
        self.events.append(event)
        self.state.apply(event)


def read_state(path: Path) -> StudyState:
    """State of the study whose ledger is at `path`."""
    return StudyState(read_events(path))
