"""A study's ledger as tables: one row a trial, one row a result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gcsearch.errors import StudyError
from gcsearch.files import replacing
from gcsearch.fronts import by_front, fronts, objectives_of
from gcsearch.ledger import LEDGER_NAME, StudyState, TrialRecord, read_state
from gcsearch.metrics.identity import check_comparable
from gcsearch.selection import Selection, select


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial as lists and tables show it.

    Attributes:
        record: The trial.
        value: The first objective.
        rank: Rank among completed trials.
        front: With several objectives, number of its front, from 1: nothing dominates a trial on the first.
    """

    record: TrialRecord
    value: float | None
    rank: int | None
    front: int | None = None


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """A study, read.

    Attributes:
        directory: Its folder.
        state: What its ledger adds up to.
        objective_index: Which of its objectives scores are of. Fronts and rankings are the same with each.
    """

    directory: Path
    state: StudyState
    objective_index: int = 0

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.state.study["study"])

    @property
    def objectives(self) -> list[dict[str, Any]]:
        """All objectives, each with `metric`, `key`, `goal` and `use`."""
        return objectives_of(self.state)

    @property
    def has_front(self) -> bool:
        """Whether there are several objectives, so that a front takes the place of a winner."""
        return len(self.objectives) > 1

    def by_objective(self) -> list[StudyResults]:
        """The study once for each objective, with the scores of that one."""
        return [replace(self, objective_index=index) for index in range(len(self.objectives))]

    @property
    def objective(self) -> dict[str, Any]:
        """The objective that scores are of: the first, unless `by_objective` says another."""
        return self.objectives[self.objective_index]

    @property
    def metric(self) -> str:
        """Key of the objective in results, e.g. ``eval/fid``."""
        return str(self.objective["key"])

    @property
    def lower_is_better(self) -> bool:
        """Direction of the objective."""
        return bool(self.objective["goal"] == "minimize")

    @property
    def keys(self) -> list[str]:
        """Dotted keys of the space, without those that a choice brings along."""
        return list(self.state.study.get("keys", ()))

    def value(self, record: TrialRecord) -> float | None:
        """The objective of a trial: its last or best value, as the study says."""
        return record.value(self.metric, self.objective["use"], self.lower_is_better)

    def front(self) -> list[TrialRecord]:
        """Completed trials that no other one dominates, best in the first objective first.

        Raises:
            ScoreError: Their scores have different identities and cannot be compared.
        """
        number = fronts(self.state)
        return [record for record in self.ranking() if number.get(record.trial) == 1]

    def ranking(self) -> list[TrialRecord]:
        """Completed trials, best first; with several objectives front by front.

        Raises:
            ScoreError: Their scores have different identities and cannot be compared.
        """
        if self.has_front:
            ranking = by_front(self.state)
        else:
            ranking = self.state.ranking(self.metric, lower_is_better=self.lower_is_better, use=self.objective["use"])
        for objective in self.objectives:
            check_comparable(
                result.identities[objective["key"]]
                for record in ranking
                for result in record.results
                if objective["key"] in result.identities
            )
        return ranking

    def rows(self) -> list[Row]:
        """All trials of the search: completed ones by rank, then the others by how far they came."""
        ranking = self.ranking()
        number = fronts(self.state) if self.has_front else {}
        ranked = [
            Row(record=record, value=self.value(record), rank=rank, front=number.get(record.trial))
            for rank, record in enumerate(ranking, 1)
        ]
        done = {record.trial for record in ranking}
        others = [record for record in self.searched() if record.trial not in done]
        others.sort(key=lambda record: (-record.images, self._order(record)))
        return ranked + [Row(record=record, value=self.value(record), rank=None) for record in others]

    def _order(self, record: TrialRecord) -> float:
        value = self.value(record)
        if value is None:
            return float("inf")
        return value if self.lower_is_better else -value

    def searched(self) -> list[TrialRecord]:
        """Trials of the search, without the finalists."""
        return [record for record in self.state.trials.values() if record.kind != "finalist"]

    def finalists(self) -> list[TrialRecord]:
        """Trainings of the best recipes on fresh seeds."""
        return [record for record in self.state.trials.values() if record.kind == "finalist"]

    def counts(self) -> dict[str, int]:
        """Number of trials of the search in each state that occurs."""
        return dict(Counter(record.state for record in self.searched()))

    @cached_property
    def selection(self) -> Selection | None:
        """What the finalists say; None without any.

        Raises:
            ScoreError: Their scores have different identities and cannot be compared.
        """
        return select(self.state)

    def winner(self) -> TrialRecord | None:
        """The training that wins: the best one of the recipe that the finalists chose, else the best of the search.

        None if nothing has completed, and with several objectives: those have a front.
        """
        if self.has_front:
            return None
        if self.selection is not None and self.selection.weights is not None:
            return self.selection.weights
        return next(iter(self.ranking()), None)

    @property
    def device_word(self) -> str:
        """What `device_seconds` counts: a GPU, or a worker where trials have none."""
        return "GPU" if self.state.study.get("gpus_per_worker") else "worker"

    def extractor(self) -> str | None:
        """Feature extractor behind the objective, without its hash, e.g. ``digits``."""
        for record in self.state.trials.values():
            for result in record.results:
                if self.metric in result.identities:
                    from gcsearch.metrics.identity import ScoreIdentity

                    return ScoreIdentity.parse(result.identities[self.metric]).extractor.split("@")[0]
        return None


def open_results(study: str | Path, studies: Path = Path("studies")) -> StudyResults:
    """Results of a study given by its folder or by its name inside `studies`.

    Raises:
        StudyError: There is none.
    """
    for directory in (studies / str(study), Path(study)):
        path = directory / LEDGER_NAME
        if path.is_file():
            state = read_state(path)
            if not state.study:
                raise StudyError(f"{path}: holds no study yet; it was interrupted before it began. Run it again.")
            return StudyResults(directory=directory, state=state)
    known = ", ".join(sorted(results.name for results in all_results(studies))) or "none"
    raise StudyError(f"study '{study}': there is no such study in {studies}/. Known: {known}.")


def all_results(studies: Path) -> Iterator[StudyResults]:
    """All studies in a folder, by name."""
    for path in sorted(studies.glob(f"*/{LEDGER_NAME}")):
        state = read_state(path)
        if state.study:
            yield StudyResults(directory=path.parent, state=state)


def write_tables(directory: Path) -> None:
    """Write trials.parquet and curves.parquet of the study in `directory` from its ledger."""
    state = read_state(directory / LEDGER_NAME)
    trials = [_trial_row(record) for record in state.trials.values()]
    curves = [row for record in state.trials.values() for row in _curve_rows(record)]
    for name, rows in (("trials", trials), ("curves", curves)):
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            table = pa.table({column: [row.get(column) for row in rows] for column in columns})
            with replacing(directory / f"{name}.parquet") as temporary:
                pq.write_table(table, temporary)


def _trial_row(record: TrialRecord) -> dict[str, Any]:
    """One trial: what it is, what was varied (as text, since a key's values may differ in type), its last scores."""
    varied = {
        f"param/{key}": value if isinstance(value, str) else json.dumps(value) for key, value in record.params.items()
    }
    last = record.results[-1].metrics if record.results else {}
    return {
        "trial": record.trial,
        "kind": record.kind,
        "candidate": record.candidate,
        "state": record.state,
        "reason": record.reason,
        "images": record.images,
        "seed": record.seed,
        "fingerprint": record.fingerprint,
        "recipe": record.recipe,
        "started": record.started,
        "ended": record.ended,
        "device_seconds": record.device_seconds,
        **varied,
        **last,
    }


def _curve_rows(record: TrialRecord) -> Iterator[dict[str, Any]]:
    for result in record.results:
        yield {"trial": record.trial, "images": result.images, "time": result.time, **result.metrics}
