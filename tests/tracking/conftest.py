import logging
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gcsearch.ledger import Event
from gcsearch.tracking.store import Store

from .ledgers import ended, event, result, samples, started, trial_started


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables; creating them takes seconds, copying them nothing."""
    path = tmp_path_factory.mktemp("store") / "empty.db"
    Store(f"sqlite:///{path}", "unused", path.parent)
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "studies" / "mu"
    for images in (0, 2000):
        path = directory / "trials" / "0000" / "samples" / f"{images:09d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), color=images % 255).save(path)
    (directory / "study.yaml").write_text("name: mu\n")
    (directory / "environment.txt").write_text("torch==2.15.0\n")
    return directory


@pytest.fixture
def ledger() -> list[Event]:
    """Five trials, one of each kind of end, and one that runs."""
    return [
        started(),
        trial_started("0000", 1),
        samples(2, 0),
        result("0000", 3, 2000, 20.0),
        samples(4, 2000),
        event("checkpoint", 4.5, trial="0000", images=2000, path="x"),
        trial_started("0001", 5),
        result("0001", 6, 2000, 30.0),
        ended("0001", 7, "stopped", "2000 images: rank 2 of 2"),
        result("0000", 8.125, 4000, 10.0, **{"eval/kid": math.inf}),
        ended("0000", 9, "completed"),
        trial_started("0002", 10),
        ended("0002", 11, "diverged", "the loss is nan"),
        trial_started("0003", 12),
        ended("0003", 13, "failed", "out of memory"),
        trial_started("0004", 14),
        ended("0004", 15, "interrupted"),
        trial_started("0005", 16),
        event("study_ended", 20),
    ]


@pytest.fixture
def read(uri: str) -> Callable[[], dict[str, Any]]:
    """Runs in the store by trial."""

    def runs() -> dict[str, Any]:
        found = list(Store(uri, "mu", Path()).runs())
        by_trial = {run.data.tags.get("gcsearch.trial", ""): run for run in found}
        assert len(by_trial) == len(found), "a trial has two runs"
        return by_trial

    return runs


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, logger="gcsearch"):
        yield
