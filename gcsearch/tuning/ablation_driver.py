"""The driver of an ablation: every arm on every seed, and further seeds for what is undecided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gcsearch.ablations import Plan, outcomes
from gcsearch.ledger import ENDED, LedgerWriter, StudyState, TrialRecord
from gcsearch.tuning.ablation import AblationSpec
from gcsearch.tuning.designs import Arm
from gcsearch.tuning.driver import Driver, Observer


class AblationDriver(Driver):
    """Driver of an ablation.

    Seeds come one after the other, each with all its arms, so that an interrupted ablation has whole pairs.

    Args:
        ablation: The ablation.
        plan: What is trained and judged.
        directory: Its folder.
        ledger: Open writer of its ledger.
        state: State of the ledger's events so far.
        observers: Told of every event, after it is on disk.
    """

    def __init__(
        self,
        ablation: AblationSpec,
        plan: Plan,
        directory: Path,
        ledger: LedgerWriter,
        state: StudyState,
        observers: Sequence[Observer] = (),
    ) -> None:
        super().__init__(ablation.resources, directory, ledger, state, observers)
        self.ablation = ablation
        self.plan = plan

    def opening(self) -> dict[str, Any]:
        return {"ablation": self.plan.to_dict()}

    def next_trial(self) -> TrialRecord | None:
        """Start or resume the next arm on the next seed."""
        if self.is_stopping or (found := self._next()) is None:
            return None
        index, arm, seed = found
        experiment = self.ablation.experiment_of(arm, seed)
        return self.write_start(trial_name(index, seed), experiment, kind="arm", arm=arm.name, params=arm.params)

    def has_work(self) -> bool:
        return self._next() is not None

    def _next(self) -> tuple[int, Arm, int] | None:
        """Index of the arm, arm and seed; None if all that is needed is trained or under way."""
        begun = 0
        for look in self.plan.looks:
            for seed in self.plan.seeds[begun:look]:
                for index, arm in enumerate(self.ablation.arms):
                    record = self.state.trials.get(trial_name(index, seed))
                    is_open = record is None or (record.state not in ENDED and record.trial not in self.active)
                    if is_open and self._is_needed(arm, begun):
                        return index, arm, seed
            if self._is_running(self.plan.seeds[begun:look]):
                return None  # what the further seeds are for is known when these are through
            begun = look
        return None

    def _is_needed(self, arm: Arm, begun: int) -> bool:
        """Whether an arm belongs to a contrast that the seeds so far have left open."""
        if not begun:
            return True
        found = outcomes(self.plan, self.state, num_seeds=begun)
        return any(arm.name in one.contrast.arms for one in found if one.is_open)

    def _is_running(self, seeds: Sequence[int]) -> bool:
        return any(self.state.trials[trial].seed in seeds for trial in self.active)

    def is_over(self, record: TrialRecord) -> bool:
        """Never early: an arm that was stopped could not be compared."""
        return False

    def finish(self) -> None:
        """Record the end and the verdicts."""
        found = outcomes(self.plan, self.state)
        self.write("study_ended", verdicts={one.contrast.name: one.to_dict() for one in found})


def trial_name(index: int, seed: int) -> str:
    """Name of the training of an arm on a seed, e.g. ``02-s1``; the reference is arm 00."""
    return f"{index:02d}-s{seed}"
