import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from gcsearch.errors import TrackingError
from gcsearch.tracking import MLflowTracker, deep_links, serve, ui_command
from gcsearch.tracking.ui import experiment_links, free_port


def test_the_command_serves_one_store_locally_and_quietly(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    argv, environment = ui_command(uri, port=5123)
    assert argv[1:4] == ["-m", "mlflow", "server"]
    assert argv[argv.index("--backend-store-uri") + 1] == uri
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--port") + 1] == "5123"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_folder_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="sqlite:///"):
        ui_command(str(tmp_path))


def test_a_taken_port_gives_the_next() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) <= port + 50
        with pytest.raises(TrackingError, match="--port"):
            free_port(port, tries=1)


def test_links_carry_workflow_runs_and_log_scale() -> None:
    links = dict(experiment_links("http://127.0.0.1:5000/", "7", ["a", "b"], "eval/fid"))
    for url in links.values():
        parts = urlsplit(url)
        assert (parts.netloc, parts.path) == ("127.0.0.1:5000", "/")
        query = parse_qs(urlsplit(parts.fragment).query)
        assert query["workflowType"] == ["machine_learning"]
    charts = parse_qs(urlsplit(urlsplit(links["curves and samples"]).fragment).query)
    assert charts["compareRunsMode"] == ["CHART"]
    assert charts["viewStateShareKey"] == ["gcsearch"]
    curves = parse_qs(urlsplit(urlsplit(links["eval/fid (log scale)"]).fragment).query)
    assert curves["runs"] == ['["a", "b"]']
    assert curves["y_axis_scale"] == ["log"]
    assert curves["plot_metric_keys"] == ['["eval/fid"]']


def test_links_of_an_experiment_without_runs_are_fewer() -> None:
    assert "leaderboard" in dict(experiment_links("http://x", "7", [], "eval/fid"))
    assert len(experiment_links("http://x", "7", [], "eval/fid")) < len(experiment_links("http://x", "7", ["a"], "fid"))


def test_importing_the_package_does_not_import_mlflow() -> None:
    code = "import sys, gcsearch.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_server_answers_locally_and_stops(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = MLflowTracker(uri, tmp_path, "mu")
    time_ = "2026-11-21T10:00:00.000+00:00"
    tracker.on_event({"event": "study_started", "time": time_, "study": "mu", "study_id": "1"})
    tracker.on_event({"event": "trial_started", "time": time_, "trial": "0000", "params": {"coupling.mu": 0.5}})
    assert tracker.close(30) == 0
    with serve(uri, 5400) as (url, process):
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        labels = [label for label, _ in deep_links(uri, url)]
        assert "mu: leaderboard" in labels
    assert process.poll() is not None
