"""The command evaluate."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from gcsearch.cli.console import print_json, progress, results
from gcsearch.evaluation import Report, Request, evaluate
from gcsearch.level_search import LevelSearch, search_level
from gcsearch.metrics.identity import SEPARATOR


def evaluate_command(
    path: Path,
    *,
    data: str | None,
    metrics: str | None,
    num: int | None,
    steps: int | None,
    extractor: str | None,
    inception_weights: Path | None,
    num_resamples: int,
    seed: int | None,
    num_workers: int,
    device: str,
    with_level_search: bool,
    as_json: bool,
) -> int:
    """Score a model or a folder of images. Exit code 1 if the model's output is not finite."""
    from gcsearch.training.session import chosen_device

    request = Request(
        path=path,
        data=data,
        metrics=None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()],
        num=num,
        steps=steps,
        extractor=extractor,
        inception_weights=inception_weights,
        num_resamples=num_resamples,
        seed=seed,
        num_workers=num_workers,
        device=chosen_device(device),
    )

    def on_stage(text: str) -> None:
        progress.print(text, style="dim", markup=False)

    if with_level_search:
        found = search_level(request, on_stage)
        if as_json:
            print_json({"path": str(path), **asdict(found)})
        else:
            _print_levels(found)
        return 0
    report = evaluate(request, on_stage)
    if as_json:
        print_json(report_json(path, report))
    else:
        results.print(score_table(report))
        # All scores share everything but the metric.
        shared = next(iter(report.identities.values())).split(SEPARATOR)[1:]
        lines = "\n".join(f"  {part.replace('=', ': ', 1)}" for part in shared)
        results.print(f"Compare only with scores of the same identity:\n{lines}", markup=False)
    if report.collapsed:
        progress.print("All samples are (nearly) the same: the network has collapsed.", style="yellow")
    if any(not math.isfinite(value) for value in report.scores.values()):
        progress.print("The output of the network is not finite, so it has no score.", style="yellow")
        return 1
    return 0


def _print_levels(found: LevelSearch) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in ("second level", found.key):
        table.add_column(heading, justify="right", no_wrap=True)
    for level, value in found.found:
        table.add_row(f"{level:.4g}", f"{value:.5g}", style="bold" if level == found.best else "")
    results.print(table)
    results.print(
        f"Best level: {found.best:.4g}. With fresh latents (seed {found.seed + 1}): {found.key} {found.fresh:.5g} in "
        f"two steps, {found.one_step:.5g} in one. In an experiment:\n"
        f"  evaluation: {{further_samplers: [{{name: multistep, levels: [{found.best:.4g}]}}]}}",
        markup=False,
    )


def score_table(report: Report) -> Table:
    """One row a score."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in ("metric", "features"):
        table.add_column(heading, no_wrap=True)
    for heading in ("value", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("better")
    for key, value in report.scores.items():
        interval = report.intervals.get(key)
        table.add_row(
            key,
            report.extractor,
            f"{value:.5g}",
            f"{interval.low:.5g} to {interval.high:.5g}" if interval else "-",
            "lower" if report.lower_is_better[key] else "higher",
        )
    return table


def report_json(path: Path, report: Report) -> dict[str, Any]:
    """The report for ``--json``; a score that is not finite is null."""
    scores = {}
    for key, value in report.scores.items():
        interval = report.intervals.get(key)
        scores[key] = {
            "value": value if math.isfinite(value) else None,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
            "lower_is_better": report.lower_is_better[key],
            "identity": report.identities[key],
        }
    return {
        "path": str(path),
        "kind": report.kind,
        "data": report.data,
        "extractor": report.extractor,
        "num_samples": report.num_samples,
        "seed": report.seed,
        "collapsed": report.collapsed,
        "scores": scores,
    }
