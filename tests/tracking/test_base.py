from pathlib import Path

import pytest

from gcsearch.errors import TrackingError
from gcsearch.tracking import MLflowTracker, Tracker


def test_the_null_tracker_does_nothing() -> None:
    tracker = Tracker()
    tracker.on_event({"event": "study_started", "time": "2026-11-21T10:00:00+00:00"})
    tracker.on_progress("0000", 1, 2.0)
    assert tracker.close() == 0


@pytest.mark.parametrize(
    "uri", ["mlruns", "./mlruns", "file:///tmp/mlruns", "/tmp/mlruns", "sqlite:mlflow.db", "ftp://x"]
)
def test_what_is_no_database_or_server_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="sqlite:///"):
        MLflowTracker(uri, tmp_path, "mu")


def test_a_broken_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database " * 100)
    with pytest.raises(TrackingError, match="usable MLflow store"):
        MLflowTracker(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, "mu")
    with pytest.raises(TrackingError, match="must exist"):
        MLflowTracker(f"sqlite:///{tmp_path}/nowhere/mlflow.db", tmp_path, "mu")
