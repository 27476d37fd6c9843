"""What is in the tables of an ablation's report."""

from __future__ import annotations

import math
from typing import Any, Final

from gcsearch.ablations import AXES, Axis
from gcsearch.analysis.ablation import AXIS_NAMES, CAPTION, AblationResults, verdict_text
from gcsearch.analysis.report.study_tables import COSTS, curves_table, failures_table
from gcsearch.analysis.report.tables import Column, Table
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import metric_title, state_name
from gcsearch.ledger import TrialRecord
from gcsearch.statistics import Interval

SHORT: Final = {"images": "", "cost/forward_units": "_at_equal_forward_units", "cost/train_seconds": "_at_equal_time"}
PARTS: Final = {
    "training": "training seed",
    "sampling": "latents, all trainings alike",
    "both": "latents, each its own",
}
"""Components of variance, and what they are to readers."""


def ablation_tables(results: StudyResults, found: AblationResults) -> list[Table]:
    """All tables that the ablation has something for."""
    tables = [
        verdicts_table(found),
        arms_table(results, found),
        trainings_table(results),
        curves_table(results, results.searched(), ("arm", "seed")),
        failures_table(results),
        noise_table(found),
    ]
    return [table for table in tables if table.rows]


def verdicts_table(found: AblationResults) -> Table:
    """One row a contrast, with all numbers that a verdict rests on."""
    rows = []
    for index, one in enumerate(found.main):
        judgement = one.judgement
        comparison = judgement.comparison if judgement else None
        row: dict[str, Any] = {"contrast": one.contrast.name, "verdict": verdict_text(one)}
        for axis in AXES:
            other = found.by_axis[axis][index]
            shown = other.judgement.comparison.share if other.judgement else None
            row |= _ends(f"change{SHORT[axis]}", shown, 100.0) | {f"verdict{SHORT[axis]}": verdict_text(other)}
        row |= _ends("gap", comparison.gap if comparison else None, 1.0)
        low, high = one.bootstrap or (None, None)
        rows.append(
            row
            | {
                "gap_bootstrap_low": low,
                "gap_bootstrap_high": high,
                "p": judgement.p_adjusted if judgement else None,
                "p_equivalent": comparison.p_equivalent if comparison else None,
                "num_seeds": judgement.num if judgement else 0,
                "correlation": comparison.correlation if comparison else None,
                "seeds_saved": comparison.seeds_saved if comparison else None,
            }
        )
    return Table(
        name="verdicts",
        title="Verdicts, step by step" if found.plan.steps else f"Verdicts against {found.plan.arms[0]}",
        columns=_VERDICTS,
        rows=rows,
        note=f"{CAPTION} r: correlation of the two scores of a seed; seeds saved: how many more an unpaired comparison "
        "would need for as narrow an interval.",
        num_shown=40,
    )


def _ends(name: str, interval: Interval | None, scale: float) -> dict[str, float | None]:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    ends = {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {name: scale * interval.mean} | {key: None if end is None else scale * end for key, end in ends.items()}


def _change_columns(axis: Axis) -> tuple[Column, ...]:
    name, where = f"change{SHORT[axis]}", "" if axis == "images" else f" at {AXIS_NAMES[axis]}"
    return (
        Column(key=name, heading=f"change{where} (%)", decimals=1),
        Column(key=f"{name}_low", heading="95 % low", decimals=1, is_detail=axis != "images"),
        Column(key=f"{name}_high", heading="95 % high", decimals=1, is_detail=axis != "images"),
    )


_VERDICTS = (
    Column(key="contrast", heading="contrast"),
    Column(key="verdict", heading="verdict"),
    *_change_columns("images"),
    Column(key="p", heading="p (corrected)", digits=2),
    *(
        column
        for axis in AXES[1:]
        for column in (
            *_change_columns(axis),
            Column(key=f"verdict{SHORT[axis]}", heading=f"verdict at {AXIS_NAMES[axis]}", is_detail=True),
        )
    ),
    Column(key="num_seeds", heading="seeds"),
    Column(key="correlation", heading="r", decimals=2),
    Column(key="seeds_saved", heading="seeds saved", decimals=0),
    Column(key="gap", heading="difference", is_detail=True),
    Column(key="gap_low", heading="95 % low", is_detail=True),
    Column(key="gap_high", heading="95 % high", is_detail=True),
    Column(key="gap_bootstrap_low", heading="bootstrap (BCa) low", is_detail=True),
    Column(key="gap_bootstrap_high", heading="bootstrap (BCa) high", is_detail=True),
    Column(key="p_equivalent", heading="p of equivalence, uncorrected", digits=2, is_detail=True),
)


def arms_table(results: StudyResults, found: AblationResults) -> Table:
    """One row an arm: its mean score, its spread over seeds, its cost."""
    by_arm: dict[str, list[TrialRecord]] = {}
    for record in results.state.of_state("completed"):
        if record.arm is not None:
            by_arm.setdefault(record.arm, []).append(record)
    rows = [
        {
            "arm": row.name,
            **_ends("mean", row.interval, 1.0),
            "deviation": row.deviation,
            "num_seeds": row.num_seeds,
            "num_diverged": row.num_diverged,
            "train_seconds": row.seconds,
            "forward_units": _mean([record.results[-1].metrics.get(COSTS[1]) for record in by_arm.get(row.name, [])]),
        }
        for row in found.arms
    ]
    columns = (
        Column(key="arm", heading="arm"),
        Column(key="mean", heading=f"{metric_title(results)}, mean"),
        Column(key="mean_low", heading="95 % low"),
        Column(key="mean_high", heading="95 % high"),
        Column(key="deviation", heading="spread over seeds (s)", digits=3),
        Column(key="num_seeds", heading="seeds"),
        Column(key="num_diverged", heading="diverged"),
        Column(key="train_seconds", heading="training (s)", digits=3),
        Column(key="forward_units", heading="network evaluations", digits=3),
    )
    note = "Means of arms may overlap where the differences on the same seeds do not: see the verdicts."
    return Table(name="arms", title="Arms", columns=columns, rows=rows, note=note, num_shown=40)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def trainings_table(results: StudyResults) -> Table:
    """One row a training."""
    columns = (
        Column(key="trial", heading="training"),
        Column(key="arm", heading="arm"),
        Column(key="seed", heading="seed"),
        Column(key="state", heading="state"),
        Column(key="value", heading=metric_title(results)),
        Column(key="images", heading="images"),
        Column(key="train_seconds", heading="training (s)", digits=3),
        Column(key="fingerprint", heading="fingerprint", is_detail=True),
    )
    rows = [
        {
            "trial": record.trial,
            "arm": record.arm,
            "seed": record.seed,
            "state": state_name(record),
            "value": value if (value := results.value(record)) is None or math.isfinite(value) else None,
            "images": record.images,
            "train_seconds": record.results[-1].metrics.get(COSTS[0]) if record.results else None,
            "fingerprint": record.fingerprint[:12],
        }
        for record in results.searched()
    ]
    return Table(name="trainings", title="Every training", columns=columns, rows=rows, num_shown=12)


def noise_table(found: AblationResults) -> Table:
    """One row a number of samples: components of variance as standard deviations, in the unit of the score."""
    rows = []
    for num, components in found.noise.by_size if found.noise else ():
        row: dict[str, Any] = {"num_samples": num, "mean": components.mean}
        for name in PARTS:
            one = getattr(components, name).root(1.0)
            row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
        share = components.training_share
        row |= {"share": 100 * share.value, "share_low": 100 * share.low, "share_high": 100 * share.high}
        rows.append(row)
    columns = (
        Column(key="num_samples", heading="samples"),
        Column(key="mean", heading="mean score"),
        *(
            column
            for name, heading in PARTS.items()
            for column in (
                Column(key=name, heading=f"s of {heading}", digits=3),
                Column(key=f"{name}_low", heading="95 % low", digits=3, is_detail=True),
                Column(key=f"{name}_high", heading="95 % high", digits=3, is_detail=True),
            )
        ),
        Column(key="share", heading="training seed, % of the noise in differences", decimals=0),
        Column(key="share_low", heading="95 % low", decimals=0),
        Column(key="share_high", heading="95 % high", decimals=0),
    )
    note = (
        "s: standard deviation. The reference's weights were scored on several sets of latents; fewer samples are the "
        "first of the same. Two-way random effects without replication, from mean squares; the last three columns are "
        "about what is left when all arms share their latents."
    )
    return Table(name="noise", title="What makes the reference's scores noisy", columns=columns, rows=rows, note=note)
