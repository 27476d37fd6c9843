"""The command `doctor`: whether this machine, or a cluster, can do the work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from gcsearch.cli.console import print_json, progress, results
from gcsearch.cli.studies import local_folder
from gcsearch.cli.study import store_uri
from gcsearch.files import default_data_dir
from gcsearch.findings import Finding

STYLES = {"ok": "green", "missing": "yellow", "broken": "red"}


def checks(address: str | None, tracking: str | None, studies: Path) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Name of each check, and the check."""
    from gcsearch.data.inventory import check_data
    from gcsearch.metrics.inception import check_weights
    from gcsearch.tracking.check import check_tracking
    from gcsearch.training.machine import check_disk, check_gpu, check_torch
    from gcsearch.tuning.check import check_ray

    yield "torch", check_torch
    yield "GPU", check_gpu
    yield "Ray", lambda: check_ray(address)
    yield "MLflow", lambda: check_tracking(store_uri(tracking, studies))
    yield "disk", lambda: check_disk(studies)
    yield "data", lambda: check_data(default_data_dir())
    yield "Inception", check_weights


def doctor_command(address: str | None, tracking: str | None, studies: str, *, as_json: bool) -> int:
    """Look at everything and say what to do. Exit code 2 if something is broken."""
    findings = []
    for name, check in checks(address, tracking, local_folder(studies)):
        with progress.status(f"Looking at {name}…") if progress.is_terminal else nullcontext():
            findings.append(check())
    is_fine = all(finding.state != "broken" for finding in findings)
    if as_json:
        print_json({"ok": is_fine, "checks": [dataclasses.asdict(finding) for finding in findings]})
        return 0 if is_fine else 2
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in ("check", "state", "found"):
        table.add_column(heading, no_wrap=heading != "found", overflow="fold")
    for finding in findings:
        table.add_row(finding.name, Text(finding.state, style=STYLES[finding.state]), Text(finding.found))
    results.print(table, soft_wrap=False)
    for finding in findings:
        if finding.advice:
            results.print(f"{finding.name}: {finding.advice}", style=STYLES[finding.state], markup=False)
    if is_fine:
        results.print("Nothing stops the work.", style="green")
    return 0 if is_fine else 2
