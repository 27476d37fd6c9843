"""What a user sees while a study runs: one table that changes in place, or a line per event without a terminal."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gcsearch.analysis.wording import cells, duration_text, headings, images_text
from gcsearch.cli.tables import state_text
from gcsearch.ledger import ENDED, Event, StudyState, TrialRecord

FRAMES_PER_SECOND = 4
WIDE = 116
"""Columns from which progress bars and speeds are shown."""


class LiveView:
    """Observer of a study that shows it; use as a context manager.

    Args:
        console: Terminal to draw on; if it is not a terminal, plain lines are printed.
        num_trials: Trials that the search will have; None if only its hours are limited.
    """

    def __init__(self, console: Console, num_trials: int | None) -> None:
        self.console = console
        self.num_trials = num_trials
        self.state = StudyState()
        self._speeds: dict[str, float] = {}
        self._images: dict[str, int] = {}
        self._started = time.monotonic()
        self._opened = datetime.now(UTC)
        self._ended_before = 0
        self._lock = threading.Lock()
        self._live = (
            Live(
                console=console,
                get_renderable=self.render,
                refresh_per_second=FRAMES_PER_SECOND,
                transient=True,
                vertical_overflow="crop",
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> LiveView:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def on_event(self, event: Event) -> None:
        """Take an event; print it if there is no terminal."""
        with self._lock:
            self.state.apply(event)
            if "trial" in event:
                self._images[event["trial"]] = self.state.trials[event["trial"]].images
        if datetime.fromisoformat(event["time"]) < self._opened:
            # An event of an earlier run, replayed.
            self._ended_before = sum(1 for _ in self.state.of_state(*ENDED))
        elif self._live is None and (line := self._line(event)):
            self.console.print(line, markup=False, soft_wrap=True)

    def on_progress(self, trial: str, images: int, images_per_second: float) -> None:
        """A trial is between two rungs."""
        with self._lock:
            self._images[trial] = images
            self._speeds[trial] = images_per_second

    def _line(self, event: Event) -> str | None:
        """One plain line for an event worth one."""
        kind = event["event"]
        if kind == "trial_started" and event.get("reason"):
            return f"{event['trial']} goes on    {event['reason']}"
        if kind == "trial_started":
            values = zip(headings(self._keys), cells(event["params"], self._keys), strict=True)
            return f"{event['trial']} started    {'  '.join(f'{name} {value}' for name, value in values)}".rstrip()
        if kind == "result":
            key = self._metric
            return f"{event['trial']} {images_text(event['images']):>6} images  {key[5:]} {event['metrics'][key]:.3f}"
        if kind == "trial_ended":
            reason = f": {event['reason']}" if event.get("reason") else ""
            return f"{event['trial']} {'paused' if event.get('paused') else event['state']}{reason}"
        return None

    @property
    def _keys(self) -> list[str]:
        return list(self.state.study.get("keys", []))

    @property
    def _metric(self) -> str:
        return str(self.state.study.get("objective", {}).get("key", "eval/fid"))

    @property
    def _lower_is_better(self) -> bool:
        return bool(self.state.study.get("objective", {}).get("goal", "minimize") == "minimize")

    def render(self) -> RenderableType:
        """The table as it should look now."""
        with self._lock:
            if not self.state.study:
                return Text("Preparing…", style="dim")
            return Group(self._header(), self._table())

    def _header(self) -> Text:
        trials = [record for record in self.state.trials.values() if record.kind != "finalist"]
        ended = [record for record in trials if record.state in ENDED]
        elapsed = time.monotonic() - self._started
        text = Text(f"{self.state.study['study']}  ", style="bold")
        of = "" if self.num_trials is None else f"of {max(self.num_trials, len(trials))} "
        text.append(f"{len(ended)} {of}trials ended", style="not bold")
        if self.state.finalists is not None:
            num = len(self.state.finalists["candidates"]) * len(self.state.finalists["seeds"])
            done = sum(1 for record in self.state.of_state(*ENDED) if record.kind == "finalist")
            text.append(f"  ·  finalists: {done} of {num}", style="not bold")
        ranking = self.state.ranking(self._metric, lower_is_better=self._lower_is_better)
        if ranking:
            value = ranking[0].value(self._metric)
            text.append(f"  ·  best {self._metric[5:]} {value:.3f} (trial {ranking[0].trial})", style="not bold")
        text.append(f"  ·  {duration_text(elapsed)}", style="not bold")
        left = self._seconds_left(len(ended), elapsed)
        if left is not None:
            text.append(f", about {duration_text(left)} left", style="not bold")
        return text

    def _seconds_left(self, num_ended: int, elapsed: float) -> float | None:
        """Remaining wall time, at this run's rate of trials; None before it has one."""
        done_here = num_ended - self._ended_before
        if self.num_trials is None or num_ended >= self.num_trials:
            return None
        return elapsed / done_here * (self.num_trials - num_ended) if done_here >= 2 else None

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
        table.add_column("trial", min_width=5)
        table.add_column("state", min_width=11)
        table.add_column("images", justify="right", min_width=6)
        if self._is_wide:
            table.add_column("", min_width=8, max_width=8)
        table.add_column(self._metric[5:], justify="right", min_width=7)
        if self._is_wide:
            table.add_column("img/s", justify="right", min_width=6)
        for heading in headings(self._keys):
            table.add_column(heading, no_wrap=True, overflow="ellipsis", min_width=len(heading))
        # Header, table head and caption, and one line for the prompt that follows.
        shown = self._shown(max(4, self.console.height - 6))
        for record in shown:
            table.add_row(*self._row(record))
        hidden = len(self.state.trials) - len(shown)
        if hidden > 0:
            table.caption = f"and {hidden} more"
            table.caption_justify = "left"
        return table

    @property
    def _is_wide(self) -> bool:
        """Whether there is room for progress bars and speeds beside the parameters."""
        return self.console.width >= WIDE

    def _shown(self, room: int) -> list[TrialRecord]:
        """Running trials first, then completed by rank, then the latest of the others."""
        running = list(self.state.of_state("running"))
        ranked = self.state.ranking(self._metric, lower_is_better=self._lower_is_better)
        rest = [record for record in self.state.trials.values() if record not in running and record not in ranked]
        return [*running, *ranked, *reversed(rest)][:room]

    def _row(self, record: TrialRecord) -> list[Any]:
        horizon = self.state.study["horizon_images"]
        images = max(record.images, self._images.get(record.trial, 0))
        value = record.value(self._metric)
        speed = self._speeds.get(record.trial)
        is_running = record.state == "running"
        bar = ProgressBar(total=horizon, completed=min(images, horizon), width=8) if is_running else ""
        row: list[Any] = [record.trial, state_text(record), images_text(images)]
        row += [bar] if self._is_wide else []
        row += ["-" if value is None else f"{value:.3f}"]
        row += [f"{speed:,.0f}" if speed and is_running else ""] if self._is_wide else []
        return row + cells(record.params, self._keys)
