"""What events add up to in MLflow: pure functions from ledger to parameters, metrics, tags and status."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from gcsearch.config.documents import dump_yaml
from gcsearch.fronts import by_front, fronts, objectives_of, values_of
from gcsearch.ledger import Event, StudyState, TrialRecord
from gcsearch.metrics.identity import ScoreIdentity
from gcsearch.selection import select
from gcsearch.tracking.names import STUDY_COLOR, color, config_params, legal_key, number, run_name, varied_params
from gcsearch.tracking.page import page

STATUS: Final = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "stopped": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
"""Status of a run by the state of its trial. A trial that was stopped early is not a failure."""

CONFIG_NAME: Final = "config.yaml"
"""Artifact of a trial's run: its complete recipe, an experiment file that `gcsearch train` takes."""

PROVENANCE_NAME: Final = "provenance.json"
"""Artifact of the study's run: versions, machine, state of the code, seeds and command of its latest run."""

STUDY_STATES: Final = {"study_started": "running", "study_ended": "completed", "study_interrupted": "interrupted"}


@dataclasses.dataclass(kw_only=True)
class RunUpdate:
    """What to write into one run. Writing it twice changes nothing.

    Attributes:
        metrics: (key, value, timestamp, step); times are milliseconds since 1970.
        images: Sample grids as (step, timestamp, path below the study's folder).
        texts: Artifacts by name.
        data: Name, digest and number of the examples that were trained on.
    """

    name: str | None = None
    params: dict[str, str] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = dataclasses.field(default_factory=list)
    images: list[tuple[int, int, str]] = dataclasses.field(default_factory=list)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    data: tuple[str, str, int] | None = None
    status: str | None = None
    start_time: int | None = None
    end_time: int | None = None

    def set_state(self, state: str, time: int) -> None:
        """State of the trial or study from `time` on."""
        self.status = STATUS.get(state, "FAILED")
        self.end_time = None if state == "running" else time
        self.tags["gcsearch.state"] = state


def milliseconds(event: Event) -> int:
    """Time of an event, in milliseconds since 1970."""
    return round(datetime.fromisoformat(event["time"]).timestamp() * 1000)


def kimg(images: int) -> int:
    """Step of a number of images: thousands."""
    return round(images / 1000)


def trial_update(events: Iterable[Event], study: Event) -> RunUpdate:
    """What events of one trial add to its run.

    Args:
        events: Events of the trial, in order.
        study: The study's `study_started` event.
    """
    update = RunUpdate()
    for event in events:
        time = milliseconds(event)
        if event["event"] == "trial_started":
            _start(update, event, study)
        elif event["event"] == "result":
            step = kimg(event["images"])
            update.metrics += [
                (legal_key(key), float(value), time, step)
                for key, value in event["metrics"].items()
                if math.isfinite(value)
            ]
            for identity in event.get("identities", {}).values():
                update.data = ScoreIdentity.parse(identity).data
        elif event["event"] == "usage":
            step = kimg(event["images"])
            update.metrics += [(key, float(value), time, step) for key, value in event["metrics"].items()]
        elif event["event"] == "samples":
            update.images.append((kimg(event["images"]), time, event["path"]))
        elif event["event"] == "trial_ended":
            update.set_state(event["state"], time)
            if reason := event.get("reason"):
                update.tags |= {"gcsearch.reason": reason, "mlflow.note.content": f"{event['state']}: {reason}"}
    return update


def _start(update: RunUpdate, event: Event, study: Event) -> None:
    kind, params, seed = event.get("kind", "trial"), event.get("params", {}), event.get("seed", 0)
    update.name = run_name(event["trial"], kind, params, seed)
    update.start_time = update.start_time or milliseconds(event)
    update.params = varied_params(params, study.get("keys", ())) | config_params(event.get("config", {}))
    update.texts[CONFIG_NAME] = dump_yaml(event.get("config", {}))
    update.tags |= {
        "gcsearch.kind": kind,
        "gcsearch.trial": event["trial"],
        "gcsearch.fingerprint": event.get("fingerprint", ""),
        "gcsearch.recipe": event.get("recipe", ""),
        "gcsearch.seed": str(seed),
        "mlflow.runColor": color(event.get("candidate") or event.get("arm") or event["trial"]),
    }
    for key in ("candidate", "arm"):
        if key in event:
            update.tags[f"gcsearch.{key}"] = event[key]
    update.set_state("running", milliseconds(event))


def study_update(events: Iterable[Event], state: StudyState) -> RunUpdate:
    """What events of the study itself add to the study's run.

    Args:
        events: Events without a trial, in order.
        state: The study now; when it ends, its winner is written.
    """
    update = RunUpdate(name=f"study {state.study.get('study', '')}".strip())
    update.tags |= {"gcsearch.kind": "study", "mlflow.runColor": STUDY_COLOR}
    for event in events:
        time = milliseconds(event)
        if event["event"] in STUDY_STATES:
            update.start_time = update.start_time or time
            update.set_state(STUDY_STATES[event["event"]], time)
        if "provenance" in event:
            update.texts[PROVENANCE_NAME] = json.dumps(event["provenance"], indent=2) + "\n"
    if update.end_time is not None:
        _add_winner(update, state)
    return update


def _add_front(update: RunUpdate, state: StudyState) -> None:
    """Of several objectives, the trials or recipes that nothing dominates, in place of a winner."""
    number, selection = fronts(state), select(state)
    trials = [record.trial for record in by_front(state) if number[record.trial] == 1]
    text = f"Front: trials {', '.join(trials)}."
    if selection is not None and selection.front:
        trials = list(selection.front)
        text = f"Front, by means over fresh seeds: the recipes of trials {', '.join(trials)}."
    names = " and ".join(f"`{one['key']}`" for one in objectives_of(state))
    table = _rows(leaderboard(state))
    note = f"{text}\n\nCompleted trials by {names}; nothing dominates those of front 1.\n\n{table}"
    update.tags |= {"gcsearch.front": ",".join(trials), "mlflow.note.content": note}


def _add_winner(update: RunUpdate, state: StudyState) -> None:
    ranking = _ranking(state)
    if not ranking:
        return
    if len(_objectives(state)) > 1:
        _add_front(update, state)
        return
    winner, key, use = ranking[0], _objective(state)["key"], _objective(state).get("use", "last")
    value = winner.value(key, use, _lower_is_better(state))
    note = _markdown(leaderboard(state), key)
    selection = select(state)
    if selection is not None and selection.winner is not None and selection.weights is not None:
        winner, interval = selection.weights, selection.winner.interval
        assert interval is not None
        value = interval.mean
        text = f"{value:.4g} [{interval.low:.4g}, {interval.high:.4g}], mean of {interval.num} fresh seeds"
        update.tags["gcsearch.winner.score"] = text
        note = f"Winner: the recipe of trial {selection.winner.candidate}, `{key}` {text}.\n\n{note}"
    assert value is not None
    # Always the same step: MLflow takes the value at the highest one for the latest, also after the study was extended.
    step = kimg(state.study.get("horizon_images", winner.images))
    update.metrics.append((legal_key(f"best/{key.split('/')[-1]}"), value, update.end_time or 0, step))
    update.tags |= {
        "gcsearch.winner": winner.trial,
        "gcsearch.winner.fingerprint": winner.fingerprint,
        "mlflow.note.content": note,
    }
    names = varied_params(winner.params, state.study.get("keys", ()))
    update.tags |= {f"gcsearch.winner.{name}": text for name, text in names.items()}


def leaderboard(state: StudyState) -> dict[str, list[Any]]:
    """Completed trials, best first, as MLflow's pages read a table: ``columns`` and rows of ``data``.

    With several objectives the rank is the number of the trial's front.
    """
    objectives = _objectives(state)
    number = fronts(state) if len(objectives) > 1 else {}
    keys = state.study.get("keys", ())
    ranking = _ranking(state)
    params = [varied_params(record.params, keys) for record in ranking]
    names = list(dict.fromkeys(name for values in params for name in values))
    data = []
    for rank, (record, values) in enumerate(zip(ranking, params, strict=True), start=1):
        scores = values_of(record, objectives)
        place = number.get(record.trial, rank)
        data.append([place, record.trial, *scores, record.images, *(values.get(name, "") for name in names)])
    first = "front" if number else "rank"
    return {"columns": [first, "trial", *(one["key"] for one in objectives), "images", *names], "data": data}


def study_page(state: StudyState) -> dict[str, Any]:
    """Arrangement of the study's page in MLflow, with all that was varied so far."""
    keys = state.study.get("keys", ())
    params = [varied_params(record.params, keys) for record in state.trials.values()]
    names = list(dict.fromkeys(name for values in params for name in values))
    recorded = {key for record in state.trials.values() for result in record.results for key in result.metrics}
    return page(
        legal_key(_objective(state)["key"]),
        names,
        shared_params=[name for name in names if all(name in values for values in params)],
        step=kimg(state.study.get("horizon_images", 0)),
        lower_is_better=_lower_is_better(state),
        diagnostics=sorted(legal_key(key) for key in recorded if key.startswith("diagnostics/")),
    )


def _markdown(table: dict[str, list[Any]], key: str) -> str:
    return f"Completed trials, best `{key}` first.\n\n{_rows(table)}"


def _rows(table: dict[str, list[Any]], rows: int = 10) -> str:
    """A table's first rows in Markdown."""
    lines = [table["columns"], ["---"] * len(table["columns"]), *table["data"][:rows]]
    cells = ("| " + " | ".join(number(cell, digits=4) for cell in line) + " |" for line in lines)
    return "\n".join(cells)


def _objective(state: StudyState) -> dict[str, Any]:
    return {"key": "eval/fid", "goal": "minimize"} | dict(state.study.get("objective", {}))


def _objectives(state: StudyState) -> list[dict[str, Any]]:
    """All objectives; one that names nothing else is FID."""
    return [{"use": "last"} | _objective(state)] if "objectives" not in state.study else objectives_of(state)


def _lower_is_better(state: StudyState) -> bool:
    return bool(_objective(state)["goal"] == "minimize")


def _ranking(state: StudyState) -> list[TrialRecord]:
    if len(_objectives(state)) > 1:
        return by_front(state)
    objective = _objective(state)
    return state.ranking(objective["key"], lower_is_better=_lower_is_better(state), use=objective.get("use", "last"))
