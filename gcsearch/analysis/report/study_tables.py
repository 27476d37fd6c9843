"""What is in the tables of a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Final

from gcsearch.analysis.importance import Importance, Interaction
from gcsearch.analysis.rank_fidelity import RankFidelity
from gcsearch.analysis.report.tables import Column, Table
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import metric_title, objective_title, state_name
from gcsearch.fronts import values_of
from gcsearch.ledger import TrialRecord
from gcsearch.tracking.names import short_names

COSTS: Final = ("cost/train_seconds", "cost/forward_units")


def study_tables(
    results: StudyResults,
    fidelities: Sequence[RankFidelity],
    importances: Sequence[Importance],
    interactions: Sequence[Sequence[Interaction]],
) -> list[Table]:
    """All tables that the study has something for; the trials and the costs always.

    Args:
        results: The study.
        fidelities: How well the rungs rank, by each objective.
        importances: Importance of the parameters for all objectives.
        interactions: For each objective, the pairs of parameters.
    """
    pairs = "Pairs of parameters: effects beyond the sum of both"
    rungs = [{"metric": one.metric} | dataclasses.asdict(rung) for one in fidelities for rung in one.rungs]
    by = (Column(key="metric", heading="objective"),) if results.has_front else ()
    shown, others = ([one for found in interactions for one in found[part]] for part in (STRONGEST, WEAKER))
    tables = [
        trials_table(results),
        finalists_table(results),
        _trainings_table(results),
        _plain("importance", "Importance of the parameters", importances, (*by, *_IMPORTANCE)),
        _plain("interactions", pairs, [*shown, *others], (*by, *_INTERACTIONS), num_shown=len(shown)),
        Table(name="rank_fidelity", title="How well the rungs rank", columns=(*by, *_FIDELITY), rows=rungs),
        failures_table(results),
        curves_table(results, results.state.trials.values(), ("trial", "kind")),
    ]
    return [table for table in [costs_table(results), *tables] if table.rows or table.name == "trials"]


STRONGEST: Final = slice(5)
"""Pairs of parameters that the page shows at once for each objective."""

WEAKER: Final = slice(5, None)

_IMPORTANCE: Final = (
    Column(key="key", heading="parameter"),
    Column(key="images", heading="at images"),
    Column(key="share", heading="share of importance", decimals=3),
    Column(key="low", heading="95 % low", decimals=3),
    Column(key="high", heading="95 % high", decimals=3),
    Column(key="num_trials", heading="trials"),
)
_INTERACTIONS: Final = (
    Column(key="first", heading="parameter"),
    Column(key="second", heading="with"),
    Column(key="images", heading="at images"),
    Column(key="share", heading="share of variance", decimals=3),
    Column(key="p", heading="p (corrected)", digits=2),
    Column(key="num_trials", heading="trials"),
)
_FIDELITY: Final = (
    Column(key="images", heading="rung (images)"),
    Column(key="tau", heading="Kendall's tau", decimals=2),
    Column(key="low", heading="95 % low", decimals=2),
    Column(key="high", heading="95 % high", decimals=2),
    Column(key="num_trials", heading="trials"),
    Column(key="num_audits", heading="audits"),
    Column(key="num_stopped", heading="stopped"),
    Column(key="is_unbiased", heading="unbiased"),
    Column(key="decides", heading="stopping decides"),
)


def _plain(name: str, title: str, found: Sequence[Any], columns: Sequence[Column], **other: Any) -> Table:
    """Dataclasses as rows."""
    return Table(name=name, title=title, columns=columns, rows=[dataclasses.asdict(one) for one in found], **other)


def _score(key: str, heading: str, values: Sequence[float | None]) -> Column:
    """A column of scores, in which as many digits are read as tell them apart."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return Column(key=key, heading=heading, decimals=3 if largest >= 1 else 5)


def _parameters(results: StudyResults, records: Sequence[TrialRecord]) -> list[Column]:
    keys = dict.fromkeys([*results.keys, *(key for record in records for key in record.params)])
    ordered = [
        key
        for entry in keys
        if not any(entry.startswith(f"{other}.") for other in keys)
        for key in (entry, *(one for one in keys if one.startswith(f"{entry}.")))
    ]
    names = short_names(dict.fromkeys(ordered))
    return [Column(key=f"param/{key}", heading=name, digits=3) for key, name in names.items()]


def _last(record: TrialRecord, metric: str) -> float | None:
    return record.results[-1].metrics.get(metric) if record.results else None


def trials_table(results: StudyResults) -> Table:
    """The search: completed trials by rank, then the others by how far they came."""
    rows, others = results.rows(), results.objectives[1:]
    further = {row.record.trial: values_of(row.record, others) for row in rows}
    columns = [
        Column(key="rank", heading="rank"),
        *([Column(key="front", heading="front")] if results.has_front else []),
        Column(key="trial", heading="trial"),
        _score("value", metric_title(results), [row.value for row in rows]),
        *(Column(key=f"value/{one['key']}", heading=objective_title(results, one), digits=4) for one in others),
        Column(key="images", heading="images"),
        Column(key="state", heading="state"),
        *_parameters(results, [row.record for row in rows]),
        Column(key="train_seconds", heading="training (s)", digits=3, is_detail=True),
        Column(key="forward_units", heading="network evaluations", digits=3, is_detail=True),
        Column(key="seed", heading="seed", is_detail=True),
        Column(key="fingerprint", heading="fingerprint", is_detail=True),
    ]
    return Table(
        name="trials",
        title="Trials of the search",
        columns=columns,
        rows=[
            {
                "rank": row.rank,
                **({"front": row.front} if results.has_front else {}),
                "trial": row.record.trial,
                "value": row.value,
                **{f"value/{one['key']}": value for one, value in zip(others, further[row.record.trial], strict=True)},
                "images": row.record.images,
                "state": state_name(row.record),
                **{f"param/{key}": value for key, value in row.record.params.items()},
                "train_seconds": _last(row.record, "cost/train_seconds"),
                "forward_units": _last(row.record, "cost/forward_units"),
                "seed": row.record.seed,
                "fingerprint": row.record.fingerprint[:12],
            }
            for row in rows
        ],
        note="Only completed trials have a rank: a stopped trial's score is that of a shorter training.",
    )


def finalists_table(results: StudyResults) -> Table:
    """The recipes that were trained again, the best mean first."""
    selection = results.selection
    recipes = selection.recipes if selection is not None else ()
    others = results.objectives[1:]
    further = {
        recipe.candidate: {
            f"{name}/{one['key']}": getattr(interval, name)
            for one, interval in zip(others, recipe.intervals[1:], strict=bool(recipe.intervals))
            for name in ("mean", "low", "high")
        }
        for recipe in recipes
    }
    rows = [
        {
            "candidate": recipe.candidate,
            "verdict": "winner"
            if selection is not None and recipe is selection.winner
            else "on the front"
            if selection is not None and recipe.candidate in selection.front
            else "within noise of the front"
            if selection is not None and selection.front and recipe.candidate in selection.ties
            else "within noise of the best"
            if selection is not None and recipe.candidate in selection.ties
            else "diverged on a seed"
            if not recipe.is_finite
            else "not complete"
            if not recipe.is_complete
            else "worse",
            "mean": recipe.interval.mean if recipe.interval else None,
            "low": recipe.interval.low if recipe.interval else None,
            "high": recipe.interval.high if recipe.interval else None,
            **further[recipe.candidate],
            "num_seeds": len(recipe.values),
            "searched": results.value(results.state.trials[recipe.candidate]),
            "train_seconds": recipe.seconds,
        }
        for recipe in recipes
    ]
    title = metric_title(results)
    means = [recipe.interval.mean for recipe in recipes if recipe.interval]
    columns = (
        Column(key="candidate", heading="recipe of trial"),
        Column(key="verdict", heading="verdict"),
        _score("mean", f"{title}, mean over fresh seeds", means),
        _score("low", "95 % low", means),
        _score("high", "95 % high", means),
        *(
            Column(key=f"{name}/{one['key']}", heading=heading, digits=4)
            for one in others
            for name, heading in (
                ("mean", f"{objective_title(results, one)}, mean"),
                ("low", "95 % low"),
                ("high", "95 % high"),
            )
        ),
        Column(key="num_seeds", heading="seeds"),
        _score("searched", "in the search, one seed", means),
        Column(key="train_seconds", heading="training (s)", digits=3),
    )
    note = "The search's scores rest on fewer samples and chose the recipes, so they flatter."
    return Table(name="finalists", title="The best recipes on fresh seeds", columns=columns, rows=rows, note=note)


def _trainings_table(results: StudyResults) -> Table:
    columns = (
        Column(key="trial", heading="training"),
        Column(key="candidate", heading="recipe of trial"),
        Column(key="seed", heading="seed"),
        Column(key="state", heading="state"),
        _score("value", metric_title(results), [results.value(record) for record in results.finalists()]),
        Column(key="images", heading="images"),
    )
    rows = [
        {
            "trial": record.trial,
            "candidate": record.candidate,
            "seed": record.seed,
            "state": state_name(record),
            "value": results.value(record),
            "images": record.images,
        }
        for record in results.finalists()
    ]
    return Table(name="finalist_trainings", title="Every training on a fresh seed", columns=columns, rows=rows)


def failures_table(results: StudyResults) -> Table:
    """What diverged or failed, and why."""
    records = [record for record in results.state.trials.values() if record.state in ("diverged", "failed")]
    columns = (
        Column(key="trial", heading="trial"),
        Column(key="state", heading="state"),
        Column(key="images", heading="images"),
        Column(key="reason", heading="reason"),
        *_parameters(results, records),
    )
    rows = [
        {
            "trial": record.trial,
            "state": state_name(record),
            "images": record.images,
            "reason": record.reason,
            **{f"param/{key}": value for key, value in record.params.items()},
        }
        for record in records
    ]
    return Table(name="failures", title="Trials that failed or diverged", columns=columns, rows=rows)


def curves_table(results: StudyResults, records: Iterable[TrialRecord], names: tuple[str, str]) -> Table:
    """Every score at every evaluation.

    Args:
        results: The study or ablation.
        records: Its trainings.
        names: Two attributes of a record that say which training it is.
    """
    columns = (
        *(Column(key=name, heading=name) for name in names),
        Column(key="images", heading="images"),
        Column(key="value", heading=metric_title(results)),
        Column(key=COSTS[0], heading="training (s)", digits=3),
        Column(key=COSTS[1], heading="network evaluations", digits=3),
    )
    rows = [
        {
            **{name: getattr(record, name) for name in names},
            "images": result.images,
            "value": result.metrics.get(results.metric),
            **{cost: result.metrics.get(cost) for cost in COSTS},
        }
        for record in records
        for result in record.results
    ]
    return Table(name="curves", title="Scores over training", columns=columns, rows=rows)


def costs_table(results: StudyResults) -> Table:
    """What search and finalists have cost."""
    horizon = int(results.state.study["horizon_images"])
    rows = [
        {
            "part": part,
            "trials": len(records),
            "images": sum(record.images for record in records),
            "share": 100 * sum(record.images for record in records) / (len(records) * horizon),
            "train_hours": sum(_last(record, "cost/train_seconds") or 0.0 for record in records) / 3600,
            "evaluation_hours": sum(_last(record, "cost/evaluation_seconds") or 0.0 for record in records) / 3600,
            "device_hours": sum(record.device_seconds for record in records) / 3600,
        }
        for part, records in (("search", results.searched()), ("finalists", results.finalists()))
        if records
    ]
    columns = (
        Column(key="part", heading=""),
        Column(key="trials", heading="trials"),
        Column(key="images", heading="images trained"),
        Column(key="share", heading="% of full length", digits=3),
        Column(key="train_hours", heading="training (h)", digits=3),
        Column(key="evaluation_hours", heading="evaluation (h)", digits=3),
        Column(key="device_hours", heading=f"{results.device_word}-hours", digits=3),
    )
    return Table(name="costs", title="Search and finalists", columns=columns, rows=rows)
