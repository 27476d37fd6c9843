"""Puts a report together and writes it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gcsearch.analysis.health import findings
from gcsearch.analysis.importance import NEARLY_ALL, Coded, Measure, importances, interactions
from gcsearch.analysis.rank_fidelity import rank_fidelity
from gcsearch.analysis.report.answer import Answer, answer
from gcsearch.analysis.report.curves import curves_by_arm, curves_by_cost, fidelity_figure, finalists_figure
from gcsearch.analysis.report.drawing import Picture, save, style
from gcsearch.analysis.report.front import front_figure, front_of_finalists_figure
from gcsearch.analysis.report.parameters import importance_figure, important_keys, pairs_figure, parallel_coordinates
from gcsearch.analysis.report.samples import sample_strips
from gcsearch.analysis.report.study_tables import study_tables
from gcsearch.analysis.report.tables import Table, write_tables
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import metric_title
from gcsearch.files import write_text
from gcsearch.metrics.identity import ScoreIdentity

PAGE: Final = "report.html"
PICTURES: Final = (
    "front", "front_of_finalists", "finalists", "curves_by_arm", "curves_by_cost", "parallel_coordinates", "importance",
    "pairs", "rank_fidelity", "samples",
)  # fmt: skip
TABLES: Final = (
    "trials", "finalists", "finalist_trainings", "importance", "interactions", "rank_fidelity", "failures", "curves",
    "costs",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the page.

    Attributes:
        name: Its anchor.
        title: Its heading.
        pictures: Title, caption and address of each figure.
        tables: Title, headings, rows, which columns are numbers, note.
        texts: Sentences below them.
        facts: Names and values.
    """

    name: str
    title: str
    pictures: Sequence[Mapping[str, str]] = ()
    tables: Sequence[Mapping[str, Any]] = ()
    texts: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a report consists of.

    Attributes:
        page: The HTML page.
        figures: Figures, as PNG; each lies beside its SVG.
        tables: Tables, as Parquet; each lies beside its Markdown and its LaTeX.
        answer: What it says first.
    """

    page: Path
    figures: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    answer: Answer


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
    fidelity = rank_fidelity(results)
    important, together = importances(results, prepare), interactions(results)
    keys = important_keys(results, important)
    tables = {table.name: table for table in study_tables(results, fidelity, important, together)}
    arm_key = _arm_key(results, keys)
    sources: dict[str, dict[str, str]] = {}
    with style():
        drawn = [
            front_figure(results),
            front_of_finalists_figure(results),
            finalists_figure(results),
            curves_by_arm(results, arm_key),
            curves_by_cost(results, arm_key),
            parallel_coordinates(results, keys),
            importance_figure(important),
            pairs_figure(results, keys, together),
            fidelity_figure(results, fidelity),
            sample_strips(results),
        ]
        for picture in filter(None, drawn):
            sources[picture.name] = _embedded(picture, save(picture, output / "figures"))
    write_tables(list(tables.values()), output / "tables")
    _remove_stale(output, sources, tables)

    def section(
        name: str, title: str, pictures: Sequence[str] = (), shown: Sequence[str] = (), **other: Any
    ) -> Section:
        return Section(
            name=name,
            title=title,
            pictures=[sources[one] for one in pictures if one in sources],
            tables=[_on_page(tables[one]) for one in shown if one in tables],
            **other,
        )

    first = [f"Ranks are of {metric_title(results)}, the first objective."] if results.has_front else []
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
            "rungs", "Can early rungs be trusted", ["rank_fidelity"], ["rank_fidelity"], texts=[*first, fidelity.advice]
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
        section("scores", "What the scores are", facts=_identities(results)),
        section("provenance", "Where it comes from", facts=_provenance(results)),
    ]
    html = _render(results, said, [one for one in sections if one.pictures or one.tables or one.texts or one.facts])
    write_text(output / PAGE, html)
    return Written(
        page=output / PAGE,
        figures=[output / "figures" / f"{name}.png" for name in sources],
        tables=[output / "tables" / f"{name}.parquet" for name in tables],
        answer=said,
    )


def _arm_key(results: StudyResults, keys: Sequence[str]) -> str | None:
    """The first parameter that nearly all trials have; one that a choice brings along would leave the others out."""
    records = results.searched()
    return next(
        (key for key in keys if sum(key in record.params for record in records) >= NEARLY_ALL * len(records)), None
    )


def _embedded(picture: Picture, contents: Mapping[str, bytes]) -> dict[str, str]:
    """A figure inside the page: sharp at any size, unless that is much larger than its pixels."""
    is_svg = len(contents["svg"]) <= 2 * len(contents["png"])
    kind, content = ("svg+xml", contents["svg"]) if is_svg else ("png", contents["png"])
    width = round(96 * picture.figure.get_figwidth())
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"title": picture.title, "caption": picture.caption, "source": source, "width": str(width)}


def _remove_stale(output: Path, pictures: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    """Files of an earlier report that this one does not have."""
    for folder, names, kept, endings in (
        ("figures", PICTURES, pictures, ("png", "svg")),
        ("tables", TABLES, tables, ("md", "tex", "parquet")),
    ):
        for name in names:
            if name not in kept:
                for ending in endings:
                    (output / folder / f"{name}.{ending}").unlink(missing_ok=True)


def _on_page(table: Table) -> dict[str, Any]:
    shown = [index for index, column in enumerate(table.columns) if not column.is_detail]
    cells = [[row[index] for index in shown] for row in table.cells()]
    return {
        "title": table.title,
        "headings": [table.columns[index].heading for index in shown],
        "is_number": [table.is_number[index] for index in shown],
        "rows": cells[: table.num_shown],
        "more": cells[table.num_shown :],
        "note": table.note,
    }


def _identities(results: StudyResults) -> list[tuple[str, str]]:
    """What the objective's scores are: everything that must agree for two of them to be compared."""
    facts: list[tuple[str, str]] = []
    for part, records in (("search", results.searched()), ("finalists", results.finalists())):
        texts = dict.fromkeys(
            result.identities[results.metric]
            for record in records
            for result in record.results
            if results.metric in result.identities
        )
        for text in texts:
            identity = ScoreIdentity.parse(text)
            facts.append(
                (
                    f"{metric_title(results)}, {part}",
                    f"{identity.num_samples:,} samples by {identity.sampler} against {identity.reference}, features "
                    f"{identity.extractor}, pixels {identity.quantisation}. Full identity: {text}",
                )
            )
    for objective in results.objectives:
        goal = "lower is better" if objective["goal"] == "minimize" else "higher is better"
        facts.append(("objective", f"{objective['key']}, {goal}, the {objective['use']} value of each training counts"))
    if not results.metric.startswith("eval/fid"):
        return facts
    note = "FID depends on features, reference and sample count; compare it only with scores of the same identity."
    return [*facts, ("caution", note)]


def _provenance(results: StudyResults) -> list[tuple[str, str]]:
    """Where the numbers come from, as the ledger has it."""
    study = results.state.study
    records = list(results.state.trials.values())
    times = [time for record in records for time in (record.started, record.ended or record.since) if time]
    provenance = study.get("provenance", {})
    named = {
        "study": results.name,
        "study id": study.get("study_id"),
        "trained": f"{min(times)[:19]} to {max(times)[:19]} UTC" if times else None,
        "events in the ledger": results.state.num_events,
        "stopping": study.get("stopping"),
        "full length (images)": study.get("horizon_images"),
        "budget": study.get("budget"),
        **{str(key): value for key, value in provenance.items()},
    }
    return [(name, _flat(value)) for name, value in named.items() if value not in (None, {}, "")]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(one)}" for key, one in value.items() if one is not None)
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else json.dumps(value)


def _render(results: StudyResults, said: Answer, sections: Sequence[Section]) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html").render(
        study=results.name, metric=metric_title(results), answer=said, sections=sections
    )
