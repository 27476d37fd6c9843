"""Which recipes of a search are trained again, and how: same recipe, fresh seed, more samples, same latents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final as Constant

from gcsearch.config import Experiment
from gcsearch.errors import StudyError
from gcsearch.fronts import by_place
from gcsearch.ledger import StudyState, TrialRecord
from gcsearch.tuning.settings import FINALIST_SAMPLES, Finalists, Objective

CURVE_POINTS: Constant = 8
"""Evaluations of a finalist, at most: enough for a curve, and few, since each draws five times a trial's samples."""


@dataclass(frozen=True, kw_only=True)
class Final:
    """One finalist to train.

    Attributes:
        candidate: The trial of the search whose recipe it is.
        seed: Its seed.
    """

    candidate: str
    seed: int

    @property
    def trial(self) -> str:
        """Its name, e.g. ``0007-s1``: it leaves the numbers of the search's own trials as they are."""
        return f"{self.candidate}-s{self.seed}"


def candidates(state: StudyState, settings: Finalists, objectives: Sequence[Objective]) -> list[str]:
    """The best full-length trials of the search, best first; of equal recipes only one.

    With several objectives these are members of the front, as far apart as possible, and if it has too few, of the
    next one: what noise has put there may belong to the first.
    """
    if len(objectives) > 1:
        ranking = by_place(state)
    else:
        (objective,) = objectives
        ranking = state.ranking(objective.key, lower_is_better=objective.goal == "minimize", use=objective.use)
    recipes: dict[str, str] = {}
    for record in ranking:
        recipes.setdefault(record.recipe, record.trial)
    return list(recipes.values())[: settings.top]


def plan(chosen: list[str], settings: Finalists) -> Iterator[Final]:
    """All finalists, seed by seed, so that every recipe has a score early."""
    return (Final(candidate=candidate, seed=seed) for seed in settings.seeds for candidate in chosen)


def experiment_of(record: TrialRecord, seed: int, settings: Finalists, objective: Objective) -> Experiment:
    """The experiment of a finalist.

    It is judged at rungs of the search, so that curves have a band over seeds; what counts is the end, unless the best
    score of a training does. Judging changes no training.

    Args:
        record: The trial of the search.
        seed: The finalist's seed.
        settings: The finalists of the study.
        objective: The study's.
    """
    experiment = Experiment.from_dict(record.config, source=f"trial {record.trial}")
    return replace(
        experiment,
        seed=seed,
        evaluation=replace(
            experiment.evaluation,
            num_samples=num_samples(experiment, settings),
            every_images=every_images(experiment, objective),
        ),
    )


def num_samples(experiment: Experiment, settings: Finalists) -> int:
    """Generated samples per evaluation of a finalist."""
    return settings.num_samples or max(FINALIST_SAMPLES, experiment.evaluation.num_samples)


def every_images(experiment: Experiment, objective: Objective) -> int:
    """Images between evaluations of a finalist: as in the search if the best one counts, else every k-th of those."""
    every = experiment.evaluation.every_images
    return every * (1 if objective.use == "best" else math.ceil(len(experiment.rungs) / CURVE_POINTS))


def check_unchanged(state: StudyState, experiment: Experiment, settings: Finalists) -> None:
    """Nothing, if finalists that the ledger has were judged as new ones would be.

    Raises:
        StudyError: They were not, so their scores could not be compared.
    """
    wanted = num_samples(experiment, settings)
    for record in state.trials.values():
        if record.kind == "finalist" and (had := record.config["evaluation"]["num_samples"]) != wanted:
            raise StudyError(
                f"finalists.num_samples must stay {had}, with which trial {record.trial} of this study was judged, got "
                f"{wanted}. Go back to it, or start a new study with --name."
            )
