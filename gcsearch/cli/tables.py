"""Tables that the command line shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gcsearch.analysis.results import Row, StudyResults
from gcsearch.cli.console import STATE_STYLES, images_text
from gcsearch.ledger import TrialRecord
from gcsearch.tracking.names import number, short_names

WIDE = 110
"""Columns from which every parameter gets a column of its own."""


def columns_of(keys: Sequence[str]) -> list[str]:
    """Keys that get a column: those at the root of the space; a component's own parameters go beside its name."""
    return [key for key in keys if not any(key.startswith(f"{other}.") for other in keys if other != key)]


def headings(keys: Sequence[str]) -> list[str]:
    """Short name of each column."""
    columns = columns_of(keys)
    names = short_names(columns)
    return [names[key] for key in columns]


def cells(params: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """One text per column, e.g. ``exponential s1=80`` for `timesteps` and what it brought along."""
    texts = []
    for key in columns_of(keys):
        if key not in params:
            texts.append("-")
            continue
        own = {name: value for name, value in params.items() if name.startswith(f"{key}.")}
        inner = [f"{name[len(key) + 1 :]}={number(value, digits=2)}" for name, value in own.items()]
        texts.append(" ".join([number(params[key], digits=2), *inner]))
    return texts


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def leaderboard(results: StudyResults, rows: Sequence[Row], width: int = WIDE) -> Table:
    """Trials of a study, best first.

    Args:
        results: The study.
        rows: Trials to show.
        width: Columns of the terminal; on a narrow one all parameters share a column.
    """
    keys = results.state.study["keys"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    metric = results.metric.removeprefix("eval/")
    extractor = results.extractor()
    table.add_column("#", justify="right")
    table.add_column("trial", no_wrap=True)
    table.add_column(f"{metric} ({extractor})" if extractor else metric, justify="right", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True, min_width=11)
    names = headings(keys)
    is_narrow = width < WIDE and len(names) > 2
    for heading in ["parameters"] if is_narrow else names:
        table.add_column(heading)
    for row in rows:
        values = cells(row.record.params, keys)
        if is_narrow:
            # Words speak for themselves, numbers need their name.
            texts = (
                value if value[0].isalpha() else f"{name} {value}" for name, value in zip(names, values, strict=True)
            )
            values = [", ".join(texts)]
        table.add_row(
            str(row.rank) if row.rank else "",
            row.record.trial,
            "-" if row.value is None else f"{row.value:.3f}",
            images_text(row.record.images),
            state_text(row.record.state),
            *values,
            style="bold" if row.rank == 1 else None,
        )
    return table


def study_list(studies: Sequence[StudyResults]) -> Table:
    """All studies of a folder."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading, justify in (("study", "left"), ("trials", "right"), ("best", "left"), ("states", "left")):
        table.add_column(heading, justify="right" if justify == "right" else "left")
    for results in studies:
        ranking = results.ranking()
        best = f"{results.metric.removeprefix('eval/')} {results.value(ranking[0]):.3f}" if ranking else "-"
        counts = ", ".join(f"{count} {state}" for state, count in results.counts().items())
        table.add_row(results.name, str(len(results.state.trials)), best, counts)
    return table


def row_json(results: StudyResults, row: Row) -> dict[str, Any]:
    """One trial for ``--json``."""
    record: TrialRecord = row.record
    return {
        "trial": record.trial,
        "rank": row.rank,
        "state": record.state,
        "reason": record.reason,
        "value": row.value,
        "images": record.images,
        "params": record.params,
        "metrics": record.results[-1].metrics if record.results else {},
        "fingerprint": record.fingerprint,
    }


def study_json(results: StudyResults) -> dict[str, Any]:
    """A study for ``--json``."""
    return {
        "study": results.name,
        "directory": str(results.directory),
        "ended": results.state.ended,
        "objective": results.state.study["objective"],
        "counts": results.counts(),
        "trials": [row_json(results, row) for row in results.rows()],
    }
