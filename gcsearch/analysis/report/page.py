"""Puts a report together and writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from gcsearch.analysis.health import findings
from gcsearch.analysis.importance import NEARLY_ALL, Coded, Measure, importances, interactions
from gcsearch.analysis.rank_fidelity import rank_fidelities
from gcsearch.analysis.report.answer import answer
from gcsearch.analysis.report.curves import curves_by_arm, curves_by_cost, finalists_figure
from gcsearch.analysis.report.drawing import style
from gcsearch.analysis.report.front import front_figure, front_of_finalists_figure
from gcsearch.analysis.report.parameters import importance_figure, important_keys, pairs_figure, parallel_coordinates
from gcsearch.analysis.report.parts import Material, Written, identities, provenance
from gcsearch.analysis.report.rungs import fidelity_figure
from gcsearch.analysis.report.samples import sample_strips
from gcsearch.analysis.report.study_tables import study_tables
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import advices

PICTURES: Final = (
    "front", "front_of_finalists", "finalists", "curves_by_arm", "curves_by_cost", "parallel_coordinates", "importance",
    "pairs", "rank_fidelity", "samples",
)  # fmt: skip
TABLES: Final = (
    "trials", "finalists", "finalist_trainings", "importance", "interactions", "rank_fidelity", "failures", "curves",
    "costs",
)  # fmt: skip


def write_report(
    results: StudyResults, output: Path, prepare: Callable[[Sequence[Coded], Sequence[float]], Measure]
) -> Written:
    """Write the report of a study to the folder `output`; files of an earlier report there are replaced.

    Args:
        results: The study.
        output: Folder, created if missing.
        prepare: Makes the measure of importance: see `gcsearch.analysis.importance.importances`.

    Raises:
        ScoreError: Scores of the study have different identities and cannot be compared.
    """
    said = answer(results)  # raises before anything is written
    fidelities = rank_fidelities(results)
    important = [one for by_one in results.by_objective() for one in importances(by_one, prepare)]
    together = [interactions(by_one) for by_one in results.by_objective()]
    keys = important_keys(results, important)
    tables = {table.name: table for table in study_tables(results, fidelities, important, together)}
    arm_key = _arm_key(results, keys)
    with style():
        drawn = [
            front_figure(results),
            front_of_finalists_figure(results),
            finalists_figure(results),
            curves_by_arm(results, arm_key),
            curves_by_cost(results, arm_key),
            parallel_coordinates(results, keys),
            importance_figure(results, important),
            pairs_figure(results, keys, together[0]),
            fidelity_figure(results, fidelities),
            sample_strips(results),
        ]
        material = Material.saved(drawn, list(tables.values()), output, (PICTURES, TABLES))
    section = material.section
    groups = [("search", results.searched()), ("finalists", results.finalists())]
    warnings = [finding.text for finding in findings(results)]
    sections = [
        section("front", "What can be had together", ["front", "front_of_finalists"]),
        section("finalists", "The best again" if results.has_front else "Who won", ["finalists"], ["finalists"]),
        section("curves", "How the trials trained", ["curves_by_arm", "curves_by_cost"]),
        section("samples", "What they draw", ["samples"]),
        section(
            "parameters",
            "What mattered",
            ["importance", "parallel_coordinates", "pairs"],
            ["importance", "interactions"],
        ),
        section(
            "rungs",
            "Can early rungs be trusted",
            ["rank_fidelity"],
            ["rank_fidelity"],
            texts=advices(results, fidelities),
        ),
        section("warnings", "Worth a look", texts=warnings or ["Nothing stands out."]),
        section("trials", "All trials", shown=["trials"]),
        section(
            "failures",
            "What failed or diverged, and why",
            shown=["failures"],
            texts=[] if "failures" in tables else ["No trial failed or diverged."],
        ),
        section("costs", "What it cost", shown=["costs"]),
        section("scores", "What the scores are", facts=identities(results, groups)),
        section("provenance", "Where it comes from", facts=provenance(results)),
    ]
    return material.write_page(results, said, sections)


def _arm_key(results: StudyResults, keys: Sequence[str]) -> str | None:
    """The first parameter that nearly all trials have; one that a choice brings along would leave the others out."""
    records = results.searched()
    return next(
        (key for key in keys if sum(key in record.params for record in records) >= NEARLY_ALL * len(records)), None
    )
