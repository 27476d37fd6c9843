"""What a user sees while a study runs."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.console import Console

from gcsearch.cli.live import LiveView


def test_a_trial_that_waits_for_promotion_is_paused_and_one_that_was_not_promoted_is_stopped():
    output = io.StringIO()
    console = Console(file=output, width=160)
    view = LiveView(console, num_trials=2)

    def happens(event, **fields):
        view.on_event({"event": event, "time": datetime.now(UTC).isoformat(), **fields})

    def printed():
        text = output.getvalue()
        output.truncate(0)
        output.seek(0)
        return text

    def state_shown():
        printed()
        console.print(view.render())
        row = next(line for line in printed().splitlines() if line.split()[:1] == ["0000"])
        return row.split()[1]

    happens("study_started", study="small", objective={"key": "eval/fid"}, keys=["lr"], horizon_images=1600)
    happens("trial_started", trial="0000", kind="trial", params={"lr": 0.1}, config={})
    happens("result", trial="0000", images=800, metrics={"eval/fid": 1.0}, identities={})
    assert state_shown() == "running"
    waits = "rank 2 of 2 at 800 images, waits for promotion"
    printed()
    happens("trial_ended", trial="0000", state="interrupted", reason=waits, images=800, paused=True)
    assert printed() == f"0000 paused: {waits}\n"
    assert state_shown() == "paused"
    goes_on = "rank 2 of 4 at 800 images, expected rank 1 at 1600"
    happens("trial_started", trial="0000", kind="trial", params={"lr": 0.1}, config={}, reason=goes_on)
    assert printed() == f"0000 goes on    {goes_on}\n"
    assert state_shown() == "running"
    printed()
    happens("trial_ended", trial="0000", state="stopped", reason="was not promoted", images=800)
    assert printed() == "0000 stopped: was not promoted\n"
    assert state_shown() == "stopped"
