"""What the page of a search and that of an ablation have in common: sections, embedding, facts, the template."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gcsearch.analysis.report.answer import Answer
from gcsearch.analysis.report.drawing import Picture, save
from gcsearch.analysis.report.tables import Table, write_tables
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import metric_title
from gcsearch.files import write_text
from gcsearch.ledger import TrialRecord
from gcsearch.metrics.identity import ScoreIdentity

PAGE: Final = "report.html"


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


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a report's sections are made of, already in its folder.

    Attributes:
        output: The folder.
        sources: Title, caption and address of each figure, by name.
        tables: Tables by name.
    """

    output: Path
    sources: Mapping[str, Mapping[str, str]]
    tables: Mapping[str, Table]

    @classmethod
    def saved(
        cls,
        pictures: Sequence[Picture | None],
        tables: Sequence[Table],
        output: Path,
        known: tuple[Sequence[str], Sequence[str]],
    ) -> Material:
        """Write figures and tables to a folder, and remove what an earlier report left there.

        Args:
            pictures: Figures; None where there is nothing to draw.
            tables: Tables.
            output: The folder.
            known: All figures and all tables that such a report may have.
        """
        drawn = [picture for picture in pictures if picture is not None]
        sources = {picture.name: _embedded(picture, save(picture, output / "figures")) for picture in drawn}
        write_tables(tables, output / "tables")
        by_name = {table.name: table for table in tables}
        _remove_stale(output, sources, by_name, known)
        return cls(output=output, sources=sources, tables=by_name)

    def section(
        self, name: str, title: str, pictures: Sequence[str] = (), shown: Sequence[str] = (), **other: Any
    ) -> Section:
        """One part of the page, with those of the named figures and tables that there are."""
        return Section(
            name=name,
            title=title,
            pictures=[self.sources[one] for one in pictures if one in self.sources],
            tables=[_on_page(self.tables[one]) for one in shown if one in self.tables],
            **other,
        )

    def write_page(self, results: StudyResults, said: Answer, sections: Sequence[Section]) -> Written:
        """Write the page; sections without content are left out."""
        shown = [one for one in sections if one.pictures or one.tables or one.texts or one.facts]
        write_text(self.output / PAGE, _render(results, said, shown))
        return Written(
            page=self.output / PAGE,
            figures=[self.output / "figures" / f"{name}.png" for name in self.sources],
            tables=[self.output / "tables" / f"{name}.parquet" for name in self.tables],
            answer=said,
        )


def _embedded(picture: Picture, contents: Mapping[str, bytes]) -> dict[str, str]:
    """A figure inside the page: sharp at any size, unless that is much larger than its pixels."""
    is_svg = len(contents["svg"]) <= 2 * len(contents["png"])
    kind, content = ("svg+xml", contents["svg"]) if is_svg else ("png", contents["png"])
    width = round(96 * picture.figure.get_figwidth())
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"title": picture.title, "caption": picture.caption, "source": source, "width": str(width)}


def _remove_stale(
    output: Path, pictures: Mapping[str, Any], tables: Mapping[str, Any], known: tuple[Sequence[str], Sequence[str]]
) -> None:
    """Remove the files of an earlier report that this one does not have.

    Args:
        output: Folder of the report.
        pictures: Figures of this one.
        tables: Tables of this one.
        known: All figures and all tables that such a report may have.
    """
    for folder, names, kept, endings in (
        ("figures", known[0], pictures, ("png", "svg")),
        ("tables", known[1], tables, ("md", "tex", "parquet")),
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


def identities(results: StudyResults, groups: Sequence[tuple[str, Sequence[TrialRecord]]]) -> list[tuple[str, str]]:
    """What the objective's scores are: everything that must agree for two of them to be compared.

    Args:
        results: The study.
        groups: Name and trainings of each part of it.
    """
    facts: list[tuple[str, str]] = []
    for part, records in groups:
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


def provenance(results: StudyResults) -> list[tuple[str, str]]:
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
