"""MLflow's web pages for a local store: how to start them, and addresses of the pages that are worth opening."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import quote

from gcsearch.errors import TrackingError
from gcsearch.tracking.page import PAGE_KEY
from gcsearch.tracking.store import SETTINGS, check_uri, import_client

MAX_COMPARED = 100
"""Runs in one address; longer addresses are refused by servers and unreadable as charts."""


def ui_command(uri: str, host: str = "127.0.0.1", port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of the MLflow UI.

    One server process, no job runner and no telemetry: 0.5 GB instead of 1.8 GB.

    Args:
        uri: Tracking URI of a database; its store must exist.
        host: Address to listen on. MLflow asks for no password: anything but 127.0.0.1 shows the studies to everybody.
        port: Port to listen on.
    """
    check_uri(uri)
    argv = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    argv += ["--host", host, "--port", str(port), "--workers", "1"]
    return argv, dict(os.environ) | SETTINGS | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def free_port(wanted: int, host: str = "127.0.0.1", tries: int = 50) -> int:
    """The wanted port, or the next free one.

    Raises:
        TrackingError: None of `tries` ports is free.
    """
    for port in range(wanted, wanted + tries):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise TrackingError(
        f"ui: a port from {wanted} to {wanted + tries - 1} must be free on {host}. Choose another --port."
    )


@contextmanager
def serve(
    uri: str, port: int = 5000, *, host: str = "127.0.0.1", quiet: bool = True
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the MLflow UI as a child process as long as the context is open.

    Args:
        uri: Tracking URI of a database.
        port: Wanted port; the next free one is taken if it is in use.
        host: Address to listen on.
        quiet: Whether the server's own output is dropped.

    Yields:
        Address of the UI, which answers some seconds later, and the process, e.g. to wait for.
    """
    port = free_port(port, host)
    argv, environment = ui_command(uri, host, port)
    output = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen(argv, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        yield f"http://{host}:{port}", process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes], patience_s: float = 5.0) -> None:
    """End the server and the processes it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def deep_links(uri: str, base_url: str, metric: str = "eval/fid") -> list[tuple[str, str]]:
    """Addresses of the pages of every study in a store, as (label, URL).

    Args:
        uri: Tracking URI of the store.
        base_url: Where its UI answers.
        metric: Metric of the curves page.
    """
    client = import_client()(tracking_uri=uri)
    links = []
    for experiment in client.search_experiments():
        runs = client.search_runs([experiment.experiment_id], "tags.`gcsearch.kind` != 'study'", max_results=1000)
        if runs:
            ids = [run.info.run_id for run in sorted(runs, key=lambda run: run.data.tags.get("gcsearch.trial", ""))]
            pages = experiment_links(base_url, experiment.experiment_id, ids, metric)
            links += [(f"{experiment.name}: {label}", url) for label, url in pages]
    return links


def experiment_links(base_url: str, experiment_id: str, runs: Sequence[str], metric: str) -> list[tuple[str, str]]:
    """Addresses of the pages of one study, as (label, URL).

    Args:
        base_url: Where the UI answers.
        experiment_id: MLflow's experiment.
        runs: Ids of the runs to compare.
        metric: Metric of the curves page, e.g. ``eval/fid``.
    """
    base, runs = base_url.rstrip("/"), list(runs)[:MAX_COMPARED]
    page = f"{base}/#/experiments/{experiment_id}/runs"
    arranged = {"viewStateShareKey": PAGE_KEY}
    links = [
        ("leaderboard", _address(page, arranged)),
        ("curves and samples", _address(page, arranged | {"compareRunsMode": "CHART"})),
        ("all runs", _address(page, {})),
        ("all charts", _address(page, {"compareRunsMode": "CHART"})),
    ]
    if runs:
        chosen = {"runs": json.dumps(runs), "experiments": json.dumps([experiment_id])}
        curves = chosen | {
            "metric": json.dumps(metric),
            "plot_metric_keys": json.dumps([metric]),
            "plot_layout": json.dumps({"autosize": True}),
            "x_axis": "step",
            "y_axis_scale": "log",
            "line_smoothness": "1",
            "show_point": "true",
            "deselected_curves": "[]",
            "last_linear_y_axis_range": "[]",
        }
        links.append(("parallel coordinates", _address(f"{base}/#/compare-runs", chosen)))
        links.append((f"{metric} (log scale)", _address(f"{base}/#/metric", curves)))
    return links


def _address(page: str, query: Mapping[str, str]) -> str:
    query = {**query, "workflowType": "machine_learning"}
    return page + "?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
