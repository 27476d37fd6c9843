"""Puts the report of an ablation together and writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gcsearch.analysis.ablation import AblationResults, ablation_results
from gcsearch.analysis.noise import noise_sentences
from gcsearch.analysis.report.ablation_answer import ablation_answer
from gcsearch.analysis.report.ablation_figures import arm_strips, forest_figure, noise_figure, seeds_figure
from gcsearch.analysis.report.ablation_tables import ablation_tables
from gcsearch.analysis.report.drawing import style
from gcsearch.analysis.report.parts import Material, Written, identities, provenance
from gcsearch.analysis.report.seed_bands import costs_figure, curves_figure
from gcsearch.analysis.results import StudyResults

PICTURES: Final = ("forest", "curves", "curves_by_cost", "seeds", "noise", "samples")
TABLES: Final = ("verdicts", "arms", "trainings", "curves", "failures", "noise")


def write_ablation_report(results: StudyResults, output: Path) -> Written:
    """Write the report of an ablation to the folder `output`; files of an earlier report there are replaced.

    Args:
        results: The ablation.
        output: Folder, created if missing.

    Raises:
        ScoreError: Scores have different identities and cannot be compared.
        StudyError: The study is a search.
    """
    found = ablation_results(results)  # raises before anything is written
    said = ablation_answer(results, found)
    tables = ablation_tables(results, found)
    with style():
        drawn = [
            forest_figure(results, found),
            curves_figure(results, found),
            costs_figure(results, found),
            seeds_figure(results, found),
            noise_figure(results, found),
            arm_strips(results, found),
        ]
        material = Material.saved(drawn, tables, output, (PICTURES, TABLES))
    section = material.section
    sections = [
        section("verdicts", "What differs", ["forest"], ["verdicts"]),
        section("curves", "How the arms trained", ["curves", "curves_by_cost"], ["arms"]),
        section("noise", "How large the noise is", ["seeds", "noise"], ["noise"], texts=_noise(found)),
        section("samples", "What they draw", ["samples"]),
        section("trainings", "All trainings", shown=["trainings"]),
        section(
            "failures",
            "What failed or diverged, and why",
            shown=["failures"],
            texts=[] if "failures" in material.tables else ["No training failed or diverged."],
        ),
        section("scores", "What the scores are", facts=identities(results, [("all arms", results.searched())])),
        section("provenance", "Where it comes from", facts=provenance(results)),
    ]
    return material.write_page(results, said, sections)


def _noise(found: AblationResults) -> list[str]:
    if found.noise is not None:
        return noise_sentences(found.noise)
    return [
        "What of the noise is the training seed's and what the latents': `gcsearch ablate ... --noise` measures it."
    ]
