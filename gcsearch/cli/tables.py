"""Tables that the command line shows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gcsearch.analysis.health import findings
from gcsearch.analysis.rank_fidelity import RankFidelity, rank_fidelities
from gcsearch.analysis.results import Row, StudyResults
from gcsearch.analysis.wording import (
    cells,
    duration_text,
    headings,
    images_text,
    interval_text,
    intervals_text,
    parameters_text,
    state_name,
)
from gcsearch.cli.console import STATE_STYLES
from gcsearch.fronts import values_of
from gcsearch.ledger import TrialRecord
from gcsearch.selection import Selection

WIDE = 110
"""Columns from which every parameter gets a column of its own."""


def state_text(record: TrialRecord) -> Text:
    """State of a trial in its colour."""
    return Text(state_name(record), style=STATE_STYLES.get(record.state, ""))


def leaderboard(results: StudyResults, rows: Sequence[Row], width: int = WIDE) -> Table:
    """Trials of a study, best first; with several objectives by front, and the first one in bold.

    Args:
        results: The study.
        rows: Trials to show.
        width: Columns of the terminal; on a narrow one all parameters share a column.
    """
    keys = results.state.study["keys"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    metric = results.metric.removeprefix("eval/")
    extractor = results.extractor()
    others = results.objectives[1:]
    table.add_column("front" if results.has_front else "#", justify="right")
    table.add_column("trial", no_wrap=True)
    table.add_column(f"{metric} ({extractor})" if extractor else metric, justify="right", no_wrap=True)
    for objective in others:
        table.add_column(objective["metric"], justify="right", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True, min_width=11)
    names = headings(keys)
    is_narrow = width < WIDE and len(names) > 2
    for heading in ["parameters"] if is_narrow else names:
        table.add_column(heading)
    for row in rows:
        values = cells(row.record.params, keys)
        if is_narrow:
            values = [parameters_text(row.record.params, keys)]
        place = row.front if results.has_front else row.rank
        further = values_of(row.record, others)
        table.add_row(
            str(place or ""),
            row.record.trial,
            "-" if row.value is None else f"{row.value:.3f}",
            *("-" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}" for value in further),
            images_text(row.record.images),
            state_text(row.record),
            *values,
            style="bold" if place == 1 else None,
        )
    return table


def finalists_table(results: StudyResults, selection: Selection, width: int = WIDE) -> Table:
    """The recipes that were trained again, the best mean first; the winner, or the front, in bold."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    metric, extractor = results.metric.removeprefix("eval/"), results.extractor()
    name = f"{metric} ({extractor})" if extractor else metric
    table.add_column("", no_wrap=True)
    table.add_column("recipe of", no_wrap=True)
    table.add_column(f"{name}: mean [95 %]", no_wrap=True)
    for objective in results.objectives[1:]:
        table.add_column(f"{objective['metric']}: mean [95 %]", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    table.add_column("in the search", justify="right", no_wrap=True)
    table.add_column("training", justify="right", no_wrap=True)
    is_wide = width >= WIDE  # else they are in the leaderboard above
    if is_wide:
        table.add_column("parameters")
    keys = results.state.study["keys"]
    for recipe in selection.recipes:
        record = results.state.trials[recipe.candidate]
        is_winner, is_first = recipe is selection.winner, recipe.candidate in selection.front
        mark = "winner" if is_winner else "front" if is_first else "tie" if recipe.candidate in selection.ties else ""
        means = intervals_text(recipe) if recipe.is_finite else [interval_text(recipe)] + ["-"] * len(recipe.others)
        searched = results.value(record)
        table.add_row(
            mark,
            recipe.candidate,
            *means,
            f"{len(recipe.values)} of {len(recipe.seeds)}",
            "-" if searched is None else f"{searched:.3f}",
            "-" if recipe.seconds is None else duration_text(recipe.seconds),
            *([parameters_text(record.params, keys)] if is_wide else []),
            style="bold" if is_winner or is_first else None,
        )
    return table


def costs(outcome: StudyResults) -> Table:
    """What the study has cost so far."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    unit = outcome.device_word
    for heading in ("", "states", "images trained", "of full length", "training", "evaluation", f"{unit}-hours"):
        table.add_column(heading, no_wrap=heading != "states")
    for name, records in (("search", outcome.searched()), ("finalists", outcome.finalists())):
        if not records:
            continue
        last = [record.results[-1].metrics for record in records if record.results]
        images = sum(record.images for record in records)
        full = len(records) * int(outcome.state.study["horizon_images"])
        states = Counter(map(state_name, records))
        table.add_row(
            name,
            ", ".join(f"{count} {state}" for state, count in states.items()),
            f"{images:,}",
            f"{100 * images / full:.0f} %",
            duration_text(sum(metrics.get("cost/train_seconds", 0.0) for metrics in last)),
            duration_text(sum(metrics.get("cost/evaluation_seconds", 0.0) for metrics in last)),
            f"{sum(record.device_seconds for record in records) / 3600:.2f}",
        )
    return table


def costs_json(results: StudyResults) -> dict[str, Any]:
    """What search and finalists have cost, for ``--json``."""
    parts = {"search": results.searched(), "finalists": results.finalists()}
    return {"unit": f"{results.device_word}-hours"} | {
        name: {
            "trials": len(records),
            "images": sum(record.images for record in records),
            "hours": sum(record.device_seconds for record in records) / 3600,
        }
        for name, records in parts.items()
    }


def fidelity_table(fidelities: Sequence[RankFidelity]) -> Table:
    """How well the rungs rank by each objective: those at which the stopping rule decides, or all without one."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    if len(fidelities) > 1:
        table.add_column("ranks of", no_wrap=True)
    for heading in ("rung", "Kendall's tau with the last rung [95 %]", "full-length", "audits", "stopped"):
        table.add_column(heading, justify="left" if "tau" in heading else "right")
    for fidelity in fidelities:
        for index, rung in enumerate([rung for rung in fidelity.rungs if rung.decides] or fidelity.rungs):
            text = f"{rung.tau:5.2f} [{rung.low:.2f}, {rung.high:.2f}]"
            table.add_row(
                *([] if len(fidelities) == 1 else ["" if index else fidelity.metric]),
                images_text(rung.images),
                text if rung.is_unbiased else f"{text} survivors only",
                str(rung.num_trials),
                str(rung.num_audits),
                str(rung.num_stopped),
            )
    return table


def study_list(studies: Sequence[StudyResults]) -> Table:
    """All studies of a folder."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading, justify in (("study", "left"), ("trials", "right"), ("best", "left"), ("states", "left")):
        table.add_column(heading, justify="right" if justify == "right" else "left")
    for results in studies:
        ranking = results.ranking()
        name = results.metric.removeprefix("eval/")
        best = f"{name} {results.value(ranking[0]):.3f}" if ranking else "-"
        if results.has_front and ranking:
            best = f"{best}, a front of {len(results.front())}"
        if results.selection is not None and results.selection.winner is not None:
            best = f"{name} {interval_text(results.selection.winner)}"
        counts = ", ".join(f"{count} {state}" for state, count in results.counts().items())
        table.add_row(results.name, str(len(results.state.trials)), best, counts)
    return table


def row_json(results: StudyResults, row: Row) -> dict[str, Any]:
    """One trial for ``--json``."""
    record: TrialRecord = row.record
    return {
        "trial": record.trial,
        "kind": record.kind,
        "rank": row.rank,
        "front": row.front,
        "state": record.state,
        "reason": record.reason,
        "value": row.value,
        "values": values_of(record, results.objectives),
        "images": record.images,
        "params": record.params,
        "metrics": record.results[-1].metrics if record.results else {},
        "fingerprint": record.fingerprint,
    }


def study_json(results: StudyResults) -> dict[str, Any]:
    """A study for ``--json``; the trials of the search by rank, then the finalists. See `docs/studies.md`."""
    fidelities = [fidelity.to_dict() for fidelity in rank_fidelities(results)]
    finalists = [Row(record=record, value=results.value(record), rank=None) for record in results.finalists()]
    return {
        "study": results.name,
        "directory": str(results.directory),
        "ended": results.state.ended,
        "objective": results.state.study["objective"],
        "objectives": results.objectives,
        "front": [record.trial for record in results.front()] if results.has_front else [],
        "counts": results.counts(),
        "costs": costs_json(results),
        "finalists": None if results.selection is None else results.selection.to_dict(),
        "rank_fidelity": fidelities[0],
        "rank_fidelities": fidelities,
        "warnings": [dataclasses.asdict(finding) for finding in findings(results)],
        "trials": [row_json(results, row) for row in [*results.rows(), *finalists]],
    }
