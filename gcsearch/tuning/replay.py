"""A study without training: the search engine under virtual workers and virtual time.

What a real study does is decided by the same engine, so samplers and stopping rules can be measured here in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from gcsearch.config import Document, build, build_settings
from gcsearch.errors import ConfigError
from gcsearch.ledger import Event, Ledger, TrialRecord
from gcsearch.registry import spec
from gcsearch.tuning.engine import Engine
from gcsearch.tuning.samplers import check_sampler
from gcsearch.tuning.settings import Objective, Search
from gcsearch.tuning.space import Params
from gcsearch.tuning.space_parser import parse_space
from gcsearch.tuning.spec import recorded_objectives, resolve_within
from gcsearch.tuning.stopping import not_promoted

METRIC: Final = "eval/score"
"""Key of the score in simulated results."""

Goal = Literal["minimize", "maximize"]

START: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Virtual time at which a simulated study begins; a worker sees 1,000 images a second."""


def simulate(
    space: Mapping[str, Any],
    search: Mapping[str, Any],
    stopping: Mapping[str, Any] | str,
    evaluate: Callable[[Params, int], float | Sequence[float]],
    *,
    goal: Goal | Sequence[Goal],
    horizon_images: int,
    budget_images: int,
    num_workers: int,
    seed: int,
    every_images: int | None = None,
    events: Iterable[Event] = (),
) -> Ledger:
    """Run a study on a function instead of trainings.

    Args:
        space: As in a study file, but its keys are free names.
        search: As in a study file: `sampler`, `start_from`. A `seed` in it is replaced by the argument.
        stopping: As in a study file.
        evaluate: Score of flat parameters after some images. What is not finite is a diverged trial. With several
            goals, as many scores.
        goal: Direction of the score, or a list with one for each of several scores.
        horizon_images: Length of a full training.
        budget_images: Images that all trials together may see. No trial is begun or continued that would exceed it.
        num_workers: Trials at a time, each with a virtual worker.
        seed: Seed of the search; the result is a function of the arguments alone.
        every_images: Evaluate at every multiple of this, besides the rule's rungs and the horizon; None does not.
        events: Events of the same simulation, cut off anywhere: it goes on from there.

    Returns:
        The events of the study, with virtual times, and their state. Scores are under `METRIC`; of several, under
        `METRIC` with ``_0``, ``_1``, ... behind it.

    Raises:
        ConfigError: Something in the arguments is wrong.
    """
    for name, value in (("horizon_images", horizon_images), ("num_workers", num_workers)):
        if value < 1:
            raise ConfigError(f"simulate: {name} must be at least 1, got {value}.")
    engine = make_engine(
        space, search, stopping, goal=goal, horizon_images=horizon_images, seed=seed, every_images=every_images
    )
    simulation = Simulation(
        engine, lambda record, images: evaluate(dict(record.params), images), budget_images, num_workers, events
    )
    simulation.run()
    return simulation.ledger


def make_engine(
    space: Mapping[str, Any],
    search: Mapping[str, Any],
    stopping: Mapping[str, Any] | str,
    *,
    goal: Goal | Sequence[Goal],
    horizon_images: int,
    seed: int,
    every_images: int | None = None,
) -> Engine:
    """Engine of a simulated study; the arguments are those of `simulate`."""
    goals = [goal] if isinstance(goal, str) else list(goal)
    if not goals or any(one not in ("minimize", "maximize") for one in goals):
        raise ConfigError(
            f"simulate: goal must be minimize or maximize, got {goal!r}. Several scores take a list of these."
        )
    keys = [METRIC] if isinstance(goal, str) else [f"{METRIC}_{index}" for index in range(len(goals))]
    document = Document({"space": dict(space), "search": dict(search), "stopping": stopping}, "simulate")
    parsed = parse_space(document.data["space"], document, is_free=True)
    settings = build_settings(Search, {**search, "seed": seed}, document, ("search",))
    rule = build("stopping", stopping if isinstance(stopping, str) else dict(stopping), document, ("stopping",))
    try:
        check_sampler(settings.sampler, parsed, Document({}), len(goals))
    except ValueError as error:
        raise ConfigError(f"simulate: search.{error}") from None
    grid = range(every_images, horizon_images, every_images) if every_images else ()
    return Engine(
        space=parsed,
        base=Document({}),
        sampler=settings.sampler,
        seed=settings.seed,
        start_from=settings.start_from,
        stopping=rule,
        within=resolve_within(rule, parsed),
        objectives=tuple(Objective(metric=key, goal=one) for key, one in zip(keys, goals, strict=True)),
        rungs=tuple(sorted({*grid, *rule.rungs(horizon_images), horizon_images})),
    )


class Simulation:
    """Virtual workers. All it knows is in the ledger, so it can be cut off and go on anywhere.

    Args:
        engine: Decides.
        evaluate: Score of a trial after some images, or as many scores as there are objectives.
        budget_images: Images that all trials together may see; infinite if only the engine limits them.
        num_workers: Trials at a time.
        events: Events of the same simulation, cut off anywhere.
    """

    def __init__(
        self,
        engine: Engine,
        evaluate: Callable[[TrialRecord, int], float | Sequence[float]],
        budget_images: float,
        num_workers: int,
        events: Iterable[Event] = (),
    ) -> None:
        self.engine = engine
        self.evaluate = evaluate
        self.budget_images = budget_images
        self.num_workers = num_workers
        self.ledger = Ledger(events)
        times = [datetime.fromisoformat(event["time"]) for event in self.ledger.events[-1:]]
        self.now = times[0] if times else START
        self.active = {record.trial: record for record in self.ledger.state.of_state("running")}
        self.seen = sum(self._images(record) for record in self.ledger.trials.values())

    def write(self, event: str, **fields: Any) -> None:
        """Append an event at the present virtual time."""
        record: Event = {"event": event, "time": self.now.isoformat(timespec="milliseconds")}
        self.ledger.add(record | {key: value for key, value in fields.items() if value is not None})

    def run(self) -> None:
        """From wherever the ledger is to the end."""
        if not self.ledger.events:
            keys = [entry.key for entry in self.engine.space.entries]
            self.write(
                "study_started",
                study="simulation",
                **recorded_objectives(self.engine.objectives),
                keys=keys,
                stopping=spec(self.engine.stopping),
                horizon_images=self.engine.horizon,
                budget_images=self.budget_images if math.isfinite(self.budget_images) else None,
            )
        if self.ledger.state.ended:
            return
        for record in list(self.active.values()):
            self.decide(record)
        while True:
            self.launch()
            if not self.active:
                break
            record = min(self.active.values(), key=lambda one: (self._finish(one), one.since_order))
            self.now = self._finish(record)
            self.reach(record, record.images + self.engine.to_next_rung(record.images))
        for record in self.engine.paused(self.ledger.state):
            self.end(record, "stopped", not_promoted(record.reason))
        self.write("study_ended")

    def launch(self) -> None:
        """Give every idle worker a trial, as long as the budget allows."""
        while len(self.active) < self.num_workers:
            launch = self.engine.next(self.ledger.state, self.active, left_images=self.left())
            if launch is None:
                return
            self.write(
                "trial_started",
                trial=launch.trial,
                kind="trial",
                params=launch.params,
                audit=launch.is_audit or None,
                reason=launch.reason,
            )
            self.active[launch.trial] = self.ledger.trials[launch.trial]

    def reach(self, record: TrialRecord, images: int) -> None:
        """A trial has come to its next rung."""
        found = self.evaluate(record, images)
        values = [float(value) for value in (found if isinstance(found, Sequence) else [found])]
        self.seen += images - record.images
        for value in values:
            if not math.isfinite(value):
                self.end(record, "diverged", f"{images} images: score must be finite, got {value}.", images=images)
                return
        keys = [objective.key for objective in self.engine.objectives]
        self.write("result", trial=record.trial, images=images, metrics=dict(zip(keys, values, strict=True)))
        self.decide(record)

    def decide(self, record: TrialRecord) -> None:
        """Carry out what the engine says about a trial at its last result."""
        if record.images >= self.engine.horizon:
            self.end(record, "completed")
            return
        decision = self.engine.decide(self.ledger.state, record)
        if decision.stop:
            self.end(record, "stopped", decision.reason)
        elif decision.pause:
            self.end(record, "interrupted", decision.reason, is_paused=True)
        elif self.left() < 0:
            self.end(record, "interrupted", "the budget is spent")

    def end(
        self,
        record: TrialRecord,
        state: str,
        reason: str | None = None,
        *,
        images: int | None = None,
        is_paused: bool = False,
    ) -> None:
        """A trial leaves its worker."""
        self.active.pop(record.trial, None)
        reached = record.images if images is None else images
        self.write(
            "trial_ended", trial=record.trial, state=state, reason=reason, images=reached, paused=is_paused or None
        )

    def left(self) -> float:
        """Images of the budget that are neither seen nor on their way to a rung."""
        return (
            self.budget_images - self.seen - sum(self.engine.to_next_rung(one.images) for one in self.active.values())
        )

    def _finish(self, record: TrialRecord) -> datetime:
        """When a trial comes to its next rung."""
        begun = datetime.fromisoformat(record.since)
        return begun + timedelta(milliseconds=self.engine.to_next_rung(record.images))

    def _images(self, record: TrialRecord) -> int:
        """Images that a trial has cost; a diverged one got to the next rung."""
        return record.images + (self.engine.to_next_rung(record.images) if record.state == "diverged" else 0)
