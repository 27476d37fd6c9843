"""The command `report`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Optional

import typer

from gcsearch.cli.options import Json, Studies


def report(
    study: Annotated[str, typer.Argument(help="Name or folder of a study or an ablation.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it
        typer.Option("--output", help="Folder to write. Default: reports/<study>."),
    ] = None,
    studies: Studies = "studies",
    json: Json = False,
) -> None:
    """Write a page about a study or an ablation.

    One self-contained HTML file, and its figures and tables as files.

    The page needs nothing but itself: open it, send it, print it.

    Example: `gcsearch report mu_schedule --output report_mu`
    """
    report_command(study, output, studies, as_json=json)


def report_command(study: str, output: Path | None, studies: str, *, as_json: bool) -> None:
    """Write the report and say where it is."""
    from gcsearch.analysis.report import write_ablation_report, write_report
    from gcsearch.analysis.results import open_results
    from gcsearch.cli.console import print_json, progress, results, say
    from gcsearch.cli.studies import fetched
    from gcsearch.errors import StudyError

    outcome = open_results(study, fetched(studies, study))
    folder = output or Path("reports") / outcome.name
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"report: --output must be a folder, got the file {folder}. Name another one.")
    with progress.status("Drawing…") if progress.is_terminal else nullcontext():
        if outcome.state.ablation is not None:
            written = write_ablation_report(outcome, folder)
        else:
            from gcsearch.tuning.importance import PedAnova  # imports Optuna, which takes a while

            written = write_report(outcome, folder, PedAnova)
    if as_json:
        print_json(
            {
                "study": outcome.name,
                "page": str(written.page),
                "figures": [str(path) for path in written.figures],
                "tables": [str(path) for path in written.tables],
                "question": written.answer.question,
                "answer": written.answer.headline,
                "facts": dict(written.answer.facts),
            }
        )
        return
    say(written.answer.headline)
    results.print(
        f"Report: {written.page}, with {len(written.figures)} figures and {len(written.tables)} tables beside it.",
        markup=False,
    )
