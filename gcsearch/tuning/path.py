"""The path from a baseline to a winner: one change at a time, the best first, as long as one is really better.

Each step trains what was taken so far, and that with every change that is left, on seeds of its own; Holm's procedure
judges the changes, and the best of those that are better is taken. Without one, or without anything left, the path
ends.

Over the whole path the chance of one or more false claims is at most 5 %. A step's trainings are independent of
everything that chose the step, since no other has its seeds; so given the way there, its claims keep its part of the
error rate, and the parts of all steps that there may be add up to 5 % (union bound). They are in proportion to the
number of changes judged: m - k of m in step k (from 0) have the share (m - k) / (m (m + 1) / 2).

After Fawcett & Hoos, Analysing differences between algorithm configurations through ablation (2016), whose steps have
no test and no trainings of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcsearch.ablations import Contrast, Plan, Step, outcomes
from gcsearch.ledger import ENDED, LedgerWriter, StudyState, TrialRecord
from gcsearch.tuning.ablation import AblationSpec
from gcsearch.tuning.ablation_driver import AblationDriver, trial_name
from gcsearch.tuning.designs import Arm, path_step
from gcsearch.tuning.driver import Observer


@dataclass(frozen=True, kw_only=True)
class Walk:
    """How far a path is.

    Attributes:
        arms: Recipes of all steps so far, each once, in the order of their first step.
        plan: What was, and is now, to train and judge.
        current: Recipes of the last step.
    """

    arms: tuple[Arm, ...]
    plan: Plan
    current: tuple[Arm, ...]


def shares(num_factors: int) -> list[float]:
    """Part of the error rate of each step of the longest path, in proportion to the changes that it judges."""
    total = num_factors * (num_factors + 1) / 2
    return [(num_factors - number) / total for number in range(num_factors)]


def walk(ablation: AblationSpec, state: StudyState) -> Walk:
    """The path as far as its trainings say where it goes; a function of the ledger alone."""
    left = {key: values[0] for key, values in ablation.factors.items()}
    taken: dict[str, Any] = {}
    arms: dict[str, Arm] = {}
    contrasts: list[Contrast] = []
    steps: list[Step] = []
    parts = shares(len(left))
    while True:
        layout = path_step(len(steps), taken, left)
        arms |= {arm.name: arms.get(arm.name, arm) for arm in layout.arms}
        contrasts += layout.contrasts
        steps.append(Step(seeds=_seeds(ablation, len(steps)), share=parts[len(steps)]))
        plan = Plan(
            arms=tuple(arms),
            contrasts=tuple(contrasts),
            seeds=tuple(seed for step in steps for seed in step.seeds),
            looks=(len(ablation.seeds),),
            key=ablation.objective.key,
            lower_is_better=ablation.objective.goal == "minimize",
            margin=ablation.margin,
            steps=tuple(steps),
        )
        found = Walk(arms=tuple(arms.values()), plan=plan, current=layout.arms)
        if not _is_trained(found, state):
            return found
        change = next((one.contrast for one in outcomes(plan, state)[-len(left) :] if one.is_taken), None)
        if change is None or len(left) == 1:
            return found
        values = arms[change.plus[0]].values
        (key,) = values.keys() - taken.keys()
        taken[key] = left.pop(key)


def _seeds(ablation: AblationSpec, number: int) -> tuple[int, ...]:
    """Seeds of a step: those of the file, then the next ones."""
    if not number:
        return ablation.seeds
    first = max(ablation.seeds) + 1 + (number - 1) * len(ablation.seeds)
    return tuple(range(first, first + len(ablation.seeds)))


def _is_trained(found: Walk, state: StudyState) -> bool:
    trials = [name for _, _, _, name in _trainings(found)]
    return all(trial in state.trials and state.trials[trial].state in ENDED for trial in trials)


def _trainings(found: Walk) -> list[tuple[int, Arm, int, str]]:
    """Index of the arm, arm, seed and name of each training of the last step, seed by seed."""
    indices = {arm.name: index for index, arm in enumerate(found.arms)}
    return [
        (indices[arm.name], arm, seed, trial_name(indices[arm.name], seed))
        for seed in found.plan.steps[-1].seeds
        for arm in found.current
    ]


class PathDriver(AblationDriver):
    """Driver of a path. Its ledger has an event `ablation_extended` with the new plan at every further step.

    Args:
        ablation: The ablation, whose design is ``path``.
        directory: Its folder.
        ledger: Open writer of its ledger.
        state: State of the ledger's events so far.
        observers: Told of every event, after it is on disk.
    """

    def __init__(
        self,
        ablation: AblationSpec,
        directory: Path,
        ledger: LedgerWriter,
        state: StudyState,
        observers: Sequence[Observer] = (),
    ) -> None:
        super().__init__(ablation, walk(ablation, state).plan, directory, ledger, state, observers)

    def next_trial(self) -> TrialRecord | None:
        if not self.is_stopping:
            self._extend()
        return super().next_trial()

    def _extend(self) -> None:
        """Go on to the next step, if the last one says where."""
        plan = walk(self.ablation, self.state).plan
        if plan != self.plan:
            self.plan = plan
            self.write("ablation_extended", ablation=plan.to_dict())

    def _next(self) -> tuple[int, Arm, int] | None:
        for index, arm, seed, trial in _trainings(walk(self.ablation, self.state)):
            record = self.state.trials.get(trial)
            if record is None or (record.state not in ENDED and trial not in self.active):
                return index, arm, seed
        return None
