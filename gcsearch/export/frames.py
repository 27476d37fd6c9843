"""A study as pandas frames, for questions that no command answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gcsearch.analysis.results import StudyResults, open_results
from gcsearch.ledger import TrialRecord

if TYPE_CHECKING:
    import pandas as pd

TRIAL: Final = (
    "trial", "kind", "candidate", "state", "reason", "rank", "images", "seed", "fingerprint", "recipe", "started",
    "ended", "device_seconds",
)  # fmt: skip
"""Columns that every study has; what it varied and measured follows."""

CURVE: Final = ("trial", "images", "time")


@dataclass(frozen=True)
class StudyFrames:
    """A study, as its ledger was when it was opened.

    Columns are named as in ``trials.parquet`` and ``curves.parquet``; here varied parameters keep their type, and times
    are timestamps in UTC. What a trial does not have is missing (NaN, None or NaT).

    Attributes:
        results: The study as the commands see it: winner, ranking, finalists.
    """

    results: StudyResults

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial, by its number: state, seed, rank among the completed ones, last value of every metric.

        What the study varied is in ``param/<key>``, e.g. ``param/coupling.mu``.
        """
        ranks = {record.trial: rank for rank, record in enumerate(self.results.ranking(), 1)}
        rows = [_trial_row(record, ranks.get(record.trial)) for record in self.results.state.trials.values()]
        frame = _frame(rows, TRIAL, ("started", "ended")).set_index("trial")
        frame["rank"] = frame["rank"].astype("Int64")
        return frame

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row a result: trial, images seen, time, every metric."""
        rows = [
            {"trial": record.trial, "images": result.images, "time": result.time, **result.metrics}
            for record in self.results.state.trials.values()
            for result in record.results
        ]
        return _frame(rows, CURVE, ("time",))


def open_frames(study: str | Path) -> StudyFrames:
    """Frames of a study given by its folder, or by its name in ``studies/``.

    Raises:
        StudyError: There is none.
    """
    return StudyFrames(open_results(study))


def _trial_row(record: TrialRecord, rank: int | None) -> dict[str, Any]:
    return {
        **{name: rank if name == "rank" else getattr(record, name) for name in TRIAL},
        **{f"param/{key}": value for key, value in record.params.items()},
        **(record.results[-1].metrics if record.results else {}),
    }


def _frame(rows: list[dict[str, Any]], first: tuple[str, ...], times: tuple[str, ...]) -> pd.DataFrame:
    """Frame of the columns `first`, which are there even without rows, and of all that occur in the rows."""
    import pandas as pd

    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    frame = pd.DataFrame(rows, columns=columns)
    for name in times:
        frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
    return frame
