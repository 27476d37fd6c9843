"""What another stopping rule would have cost and lost, on the curves that a study has recorded.

The trials are the recorded ones in their order; the engine decides about them under the other rule. A trial that was
stopped has no curve beyond that point. Where the other rule would have let it go on, nothing is made up: it counts as
`unknown`, its further cost is missing from the sum, and its end may have been better than what is reported as best.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gcsearch.config import Document, build
from gcsearch.config.documents import parse_value
from gcsearch.errors import ConfigError, StudyError, suggestion
from gcsearch.fronts import objectives_of
from gcsearch.ledger import Event, StudyState, TrialRecord
from gcsearch.registry import spec
from gcsearch.tuning.engine import Engine
from gcsearch.tuning.replay import Simulation
from gcsearch.tuning.samplers.plain import RandomSampler
from gcsearch.tuning.settings import Objective
from gcsearch.tuning.settling import Settling
from gcsearch.tuning.space import Params, Space
from gcsearch.tuning.stopping import RungRule, Stopping


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A rule on recorded curves.

    Attributes:
        stopping: The rule, with every default.
        images: Images trained; a lower bound if there are unknown trials.
        share: The same as a share of full-length trainings.
        completed: Trials that get to the end.
        unknown: Trials that the rule lets go on beyond what was recorded.
        best: Best objective of the completed trials; None without one.
        best_trial: Its trial.
        loss: By how much `best` is worse than the best of all full-length trials of the study; None without `best`.
        is_exact: Whether nothing is unknown.
    """

    stopping: dict[str, Any]
    images: int
    share: float
    completed: int
    unknown: tuple[str, ...]
    best: float | None
    best_trial: str | None
    loss: float | None
    is_exact: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self) | {"unknown": list(self.unknown)}


@dataclass(frozen=True, kw_only=True)
class RecordedEngine(Engine):
    """An engine whose suggestions are the trials of a study that has been run.

    Attributes:
        recorded: Their parameters, in order.
    """

    recorded: tuple[Params, ...]

    def suggest(self, state: StudyState, number: int) -> Params | None:
        return self.recorded[number] if number < len(self.recorded) else None

    def left_over(self, state: StudyState, active: Collection[str] = ()) -> Iterator[TrialRecord]:
        """None: a simulated process is never lost, and a trial without a recorded future cannot go on."""
        return iter(())


class RecordedSimulation(Simulation):
    """Trials that follow their recorded curves, and end where these do.

    Args:
        engine: Decides.
        trials: Trials of the search that was run, in order.
        num_workers: Trials at a time.
    """

    def __init__(self, engine: RecordedEngine, trials: list[TrialRecord], num_workers: int) -> None:
        super().__init__(engine, self.recorded, math.inf, num_workers)
        self.trials = trials
        self.unknown: list[str] = []

    def source(self, record: TrialRecord) -> TrialRecord:
        """The trial as it was recorded."""
        return self.trials[int(record.trial)]

    def recorded(self, record: TrialRecord, images: int) -> float:
        """Score at a rung; not finite if the trial had diverged by then."""
        value = self.source(record).value_at(self.engine.objectives[0].key, images)
        return math.inf if value is None else value

    def reach(self, record: TrialRecord, images: int) -> None:
        source = self.source(record)
        if source.state != "diverged" and source.value_at(self.engine.objectives[0].key, images) is None:
            self.unknown.append(source.trial)
            self.end(record, "interrupted", "went on beyond what was recorded")
        else:
            super().reach(record, images)


def parse_stopping(text: str, state: StudyState) -> Stopping:
    """A stopping rule as in a study file, e.g. ``asha`` or ``{name: asha, factor: 4}``, for the rungs of a study.

    Raises:
        ConfigError: It is not a rule, or its rungs have no evaluations.
    """
    section = parse_value(text, f"--stopping {text}")
    section = {"name": section} if isinstance(section, str) else section
    document = Document({"stopping": section}, f"--stopping {text}")
    rule: Stopping = build("stopping", section, document, ("stopping",))
    if not isinstance(rule, RungRule):
        return rule
    rungs = _rungs(state)
    if "min_images" not in section:
        rule = replace(rule, min_images=rungs[0])
    horizon = int(state.study["horizon_images"])
    missing = [rung for rung in rule.rungs(horizon) if rung not in rungs]
    if missing or rule.min_images >= horizon:
        known = ", ".join(map(str, rungs[:-1]))
        raise ConfigError(
            f"--stopping {text}: every rung must be one where this study was evaluated, got "
            f"{(missing or [horizon])[0]}. Evaluated at: {known}."
        )
    return rule


def replay(events: Sequence[Event], stopping: Stopping) -> Replayed:
    """A stopping rule on the curves that a study has recorded.

    Suggestions stay as they were: what the sampler would have tried instead cannot be known. Trials at a time are as
    many as were, all equally fast.

    Args:
        events: The study's ledger.
        stopping: The other rule.
    """
    state = StudyState(events)
    check_replayable(state)
    trials, objective = _searched(state), state.study["objective"]
    metric, is_lower, use = objective["key"], objective["goal"] == "minimize", objective["use"]
    target, settling = Objective(metric=metric, goal=objective["goal"], use=use), Settling(stopping)
    engine = RecordedEngine(
        space=Space(()),
        base=Document({}),
        sampler=RandomSampler(),
        seed=0,
        start_from=(),
        stopping=stopping,
        within=_within(state, stopping),
        objectives=(target,),
        rungs=_rungs(state),
        recorded=tuple(record.params for record in trials),
        is_settling=lambda record, images: settling(trials[int(record.trial)], images),
    )
    simulation = RecordedSimulation(engine, trials, concurrency(events))
    simulation.run()
    ranking = simulation.ledger.state.ranking(metric, lower_is_better=is_lower, use=use)
    best, reference = (
        found[0].value(metric, use, is_lower) if found else None
        for found in (ranking, state.ranking(metric, lower_is_better=is_lower, use=use))
    )
    unknown = tuple(sorted(simulation.unknown))
    images = sum(record.images for record in simulation.ledger.trials.values())
    return Replayed(
        stopping=spec(stopping),
        images=images,
        share=images / (engine.horizon * len(trials)),
        completed=len(ranking),
        unknown=unknown,
        best=best,
        best_trial=ranking[0].trial if ranking else None,
        loss=None if best is None or reference is None else target.loss(best) - target.loss(reference),
        is_exact=not unknown,
    )


def check_replayable(state: StudyState) -> None:
    """Nothing, if rules can be compared on the curves of a study.

    Raises:
        StudyError: It has several objectives, so what a rule has lost is not one number.
    """
    if len(objectives := objectives_of(state)) > 1:
        names = " and ".join(one["metric"] for one in objectives)
        raise StudyError(
            f"study '{state.study['study']}': replay says how much worse a rule's best trial is, which is not one "
            f"number for {names}. It takes studies of one objective."
        )


def as_run(state: StudyState) -> Replayed:
    """What the study itself has cost and found, to compare with."""
    check_replayable(state)
    trials, objective = _searched(state), state.study["objective"]
    metric, is_lower, use = objective["key"], objective["goal"] == "minimize", objective["use"]
    ranking = state.ranking(metric, lower_is_better=is_lower, use=use)
    images = sum(record.images for record in trials)
    return Replayed(
        stopping=dict(state.study.get("stopping", {})),
        images=images,
        share=images / (int(state.study["horizon_images"]) * len(trials)),
        completed=len(ranking),
        unknown=(),
        best=ranking[0].value(metric, use, is_lower) if ranking else None,
        best_trial=ranking[0].trial if ranking else None,
        loss=0.0 if ranking else None,
        is_exact=True,
    )


def _searched(state: StudyState) -> list[TrialRecord]:
    return [record for record in state.trials.values() if record.kind == "trial"]


def _rungs(state: StudyState) -> tuple[int, ...]:
    """Images at which the study was evaluated.

    Raises:
        StudyError: Nothing was recorded.
    """
    rungs = {result.images for record in _searched(state) for result in record.results}
    if not rungs:
        raise StudyError(f"study '{state.study['study']}': has no recorded curves to replay. Run it first.")
    return tuple(sorted(rungs | {int(state.study["horizon_images"])}))


def _within(state: StudyState, stopping: Stopping) -> str | None:
    """Key inside which trials are compared; ``auto`` as for a study with these keys."""
    if not isinstance(stopping, RungRule) or stopping.within == "none":
        return None
    keys = state.study["keys"]
    if stopping.within == "auto":
        return "timesteps" if "timesteps" in keys else None
    if stopping.within not in keys:
        raise ConfigError(
            f"--stopping: within must be a key of the space, auto or none, got '{stopping.within}'. "
            f"{suggestion(stopping.within, keys)}"
        )
    return stopping.within


def concurrency(events: Sequence[Event]) -> int:
    """Most trials of the search that ran at one time."""
    running: set[str] = set()
    most = 1
    for event in events:
        if event["event"] == "study_started":
            running.clear()  # what ran when a driver was killed
        elif event["event"] == "trial_started" and event.get("kind", "trial") == "trial":
            running.add(event["trial"])
            most = max(most, len(running))
        elif event["event"] == "trial_ended":
            running.discard(event["trial"])
    return most
