"""A server that is killed while a study runs holds, in the end, exactly what the ledger says."""

from __future__ import annotations

import importlib.util
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gcsearch.ledger import LEDGER_NAME, LedgerWriter, read_events
from gcsearch.tracking import MLflowTracker
from gcsearch.tracking.store import Store

from .server import BadLine, Server, postgresql, postgresql_folder

TRIALS = 8
RUNGS = (0, 1000, 2000)
IDENTITY = (
    "metric=fid | extractor=digits@030a71db | reference=digits@b41ca9fd3354 x1797 | num_samples=64 | "
    "sampler=one_step | quantisation=clip_round_uint8"
)
RUN_PART = re.compile(r"\+[0-9a-f]{8}-[0-9a-f-]{27}")
"""The part of a grid's name that follows from the run."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/server.db"
        return
    programs = postgresql_folder()
    if programs is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("PostgreSQL's programs and psycopg are not both on this machine")
    with postgresql(programs) as uri:
        yield uri


def script(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events of a study of four trials at a time, as a driver would write them."""
    draw = random.Random(0)
    objective = {"metric": "fid", "goal": "minimize", "use": "last", "key": "eval/fid"}
    yield (
        "study_started",
        {
            "study": "mu",
            "study_id": "0123456789abcdef",
            "objective": objective,
            "keys": ["coupling.mu"],
            "horizon_images": RUNGS[-1],
            "provenance": {"command": "gcsearch run mu.yaml"},
        },
    )
    for first in range(0, TRIALS, 4):
        numbers = [f"{number:04d}" for number in range(first, first + 4)]
        for number in numbers:
            mu = draw.random()
            config = {"seed": 0, "coupling": {"name": "generator", "mu": mu}}
            more = {"fingerprint": f"f{number}", "recipe": f"r{number}", "seed": 0}
            yield (
                "trial_started",
                {"trial": number, "kind": "trial", "params": {"coupling.mu": mu}, "config": config, **more},
            )
        for images in RUNGS:
            for number in numbers:
                path = f"trials/{number}/samples/{images:09d}.png"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (16, 16), color=images % 255).save(folder / path)
                yield "samples", {"trial": number, "images": images, "path": path}
                if images:
                    metrics = {"eval/fid": draw.uniform(1, 9), "train/loss": draw.random(), "cost/step": images / 32}
                    identities = {"eval/fid": IDENTITY}
                    yield "result", {"trial": number, "images": images, "metrics": metrics, "identities": identities}
        for number in numbers:
            yield "trial_ended", {"trial": number, "state": "completed"}
    yield "study_ended", {}


def content(uri: str) -> dict[str, Any]:
    """Everything that a store holds about the study, without the store's own names for it."""
    store, found = Store(uri, "mu", Path()), {}
    for run in store.runs():
        trial = run.data.tags.get("gcsearch.trial", "")
        assert trial not in found, f"trial {trial} has two runs"
        history = {
            key: Counter(
                (row.value, row.step, row.timestamp) for row in store.client.get_metric_history(run.info.run_id, key)
            )
            for key in run.data.metrics
        }
        folders = ("", "images")
        listed = [file for folder in folders for file in store.client.list_artifacts(run.info.run_id, folder)]
        found[trial] = {
            "info": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": {key: value for key, value in run.data.tags.items() if key != "mlflow.user"},
            "history": history,
            "files": Counter(RUN_PART.sub("", file.path) for file in listed if not file.is_dir),
            "data": [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs],
        }
    return found


@pytest.mark.slow
def test_a_server_that_is_killed_ends_up_with_exactly_the_ledger(database: str, tmp_path: Path) -> None:
    server = Server(database, tmp_path)
    server.start()
    line = BadLine(server.port, every=13)
    folder = tmp_path / "studies" / "mu"
    tracker = MLflowTracker(line.address, folder, "mu", first_retry_s=0.05, last_retry_s=0.5)
    slowest, killed_at = 0.0, (20, 40)
    try:
        with LedgerWriter(folder / LEDGER_NAME) as ledger:
            for number, (event, fields) in enumerate(script(folder)):
                if number in killed_at:
                    wait_until_written(tracker, sent=number, num=number - 15)
                    server.kill()
                if number - 10 in killed_at:
                    assert tracker.num_unwritten > 0
                    server.start()
                record = ledger.append(event, **fields)
                begin = time.perf_counter()
                tracker.on_event(record)
                slowest = max(slowest, time.perf_counter() - begin)
                time.sleep(0.01)
        wait_until_written(tracker, sent=number + 1, num=number + 1)
        assert tracker.close(60) == 0
        assert slowest < 0.1
        assert line.num_lost > 3
        assert line.num_refused > 3

        events = read_events(folder / LEDGER_NAME)
        address = f"http://127.0.0.1:{server.port}"
        held = content(address)
        assert set(held) == {"", *(f"{number:04d}" for number in range(TRIALS))}
        points = sum(sum(rows.values()) for trial, run in held.items() if trial for rows in run["history"].values())
        assert points == sum(math.isfinite(value) for event in events for value in event.get("metrics", {}).values())
        # A recipe, and every grid in two sizes.
        assert all(sum(run["files"].values()) == 1 + 2 * len(RUNGS) for trial, run in held.items() if trial)

        clean = write(f"sqlite:///{tmp_path}/clean.db", folder, events)
        assert held == clean
        assert write(address, folder, events) == clean
    finally:
        tracker.close(1)
        line.close()
        server.kill()


def wait_until_written(tracker: MLflowTracker, sent: int, num: int, patience_s: float = 120.0) -> None:
    deadline = time.monotonic() + patience_s
    while sent - tracker.num_unwritten < num:
        assert time.monotonic() < deadline, f"{tracker.num_unwritten} events are not written"
        time.sleep(0.05)


def write(uri: str, folder: Path, events: list[dict[str, Any]]) -> dict[str, Any]:
    tracker = MLflowTracker(uri, folder, "mu")
    for event in events:
        tracker.on_event(event)
    assert tracker.close(120) == 0
    return content(uri)
