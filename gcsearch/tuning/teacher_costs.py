"""What the teachers of a study or an ablation will cost: each is trained once, before the first training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from gcsearch.config import Experiment
from gcsearch.files import supplied
from gcsearch.tuning.measuring import NETWORKS, measure


@dataclass(frozen=True, kw_only=True)
class PlannedTeacher:
    """A teacher that a study or an ablation needs.

    Attributes:
        fingerprint: Of its training.
        images: Images of its training.
        seconds: How long training and evaluating it takes on this machine; 0 if its weights are here already, None if
            this machine cannot tell.
    """

    fingerprint: str
    images: int
    seconds: float | None


def planned_teachers(experiments: Iterable[Experiment], *, is_measurable: bool) -> tuple[PlannedTeacher, ...]:
    """The teachers that recipes train as a stage of their own, each once, measured where `prepare` would train them.

    Args:
        experiments: The recipes.
        is_measurable: Whether this machine is like those that will train.
    """
    stages = {stage.fingerprint: stage for experiment in experiments if (stage := experiment.teacher_stage) is not None}
    return tuple(_planned(stage, is_measurable=is_measurable) for stage in stages.values())


def _planned(stage: Experiment, *, is_measurable: bool) -> PlannedTeacher:
    images, seconds = stage.training.num_images, None
    if (supplied(stage.model_name) or stage.model_path).is_file():
        seconds = 0.0
    elif is_measurable:
        train, sample = measure(stage, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        judged = len(stage.rungs) * stage.evaluation.num_samples * NETWORKS
        seconds = images * train + judged * sample
    return PlannedTeacher(fingerprint=stage.fingerprint, images=images, seconds=seconds)
