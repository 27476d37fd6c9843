"""Which scores come too soon after a change of the training task to be judged."""

from __future__ import annotations

from gcsearch.config import Experiment
from gcsearch.ledger import TrialRecord
from gcsearch.tuning.stopping import RungRule, Stopping

GROWTH = 1.5
"""Number of timestep levels, after over before, from which on a change counts: a doubling does, a slow growth not."""


class Settling:
    """Whether the number of timestep levels of a trial has grown by half or more shortly before some images.

    A rung at the very moment of a change is judged: the network has not been trained on the new levels yet.

    Args:
        stopping: The rule, whose `grace` says what shortly means.
    """

    def __init__(self, stopping: Stopping) -> None:
        self.grace = stopping.grace if isinstance(stopping, RungRule) else 0.0
        self._known: dict[tuple[str, int], bool] = {}

    def __call__(self, record: TrialRecord, images: int) -> bool:
        if not self.grace or not record.config:
            return False
        key = (record.fingerprint, images)
        if key not in self._known:
            self._known[key] = self._has_grown(Experiment.from_dict(record.config, source=record.trial), images)
        return self._known[key]

    def _has_grown(self, experiment: Experiment, images: int) -> bool:
        training = experiment.training

        def levels(seen: int) -> float:
            step = max(0, seen - 1) // training.batch_size  # the last step trained before `seen`
            return experiment.timesteps.stage(step, training.num_steps).get("num_levels", 1.0)

        return levels(images) >= GROWTH * levels(images - round(self.grace * training.num_images))
