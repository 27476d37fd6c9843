"""What of a report goes to other places that show a study: the page, and the figures as pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gcsearch.analysis.importance import Coded, Measure
from gcsearch.analysis.report.ablation_page import write_ablation_report
from gcsearch.analysis.report.page import write_report
from gcsearch.analysis.results import StudyResults


def report_files(
    results: StudyResults, prepare: Callable[[Sequence[Coded], Sequence[float]], Measure]
) -> dict[str, bytes]:
    """The page of a report, and its figures as PNG, by their names in the report's folder.

    Args:
        results: The search or the ablation.
        prepare: Makes the measure of importance: see `gcsearch.analysis.importance.importances`.

    Raises:
        ScoreError: Scores of the study have different identities and cannot be compared.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if results.state.ablation is None:
            written = write_report(results, folder, prepare)
        else:
            written = write_ablation_report(results, folder)
        files = [*written.figures, written.page]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
