"""Teachers that are trained for an experiment: once, before the trainings that need them, and kept in the cache."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gcsearch.config import Experiment
from gcsearch.errors import DataError, TeacherError
from gcsearch.files import replacing, supplied
from gcsearch.registry import spec
from gcsearch.training.checkpoint import load_checkpoint
from gcsearch.training.trainer import Trainer

Tell = Callable[[str], None]

TEACHER: Final = "teacher"
"""Event of a ledger with a teacher's record: its cost is no part of any trial's."""


@dataclass(frozen=True, kw_only=True)
class TrainedTeacher:
    """What is on record of a teacher's training.

    Attributes:
        fingerprint: Of its training.
        images: Images it has seen.
        train_seconds: Time its steps took.
        evaluation_seconds: Time its evaluation took.
        forward_units: Network forwards of one example; forward + backward = 3.
        score: Its metric, with the samples of its own ODE solver.
        metric: Name of the metric, e.g. ``eval/fid``.
    """

    fingerprint: str
    images: int
    train_seconds: float
    evaluation_seconds: float
    forward_units: float
    score: float
    metric: str


def prepare(experiment: Experiment, tell: Tell = lambda _: None) -> TrainedTeacher | None:
    """Fetch what a recipe needs beyond its fields and data, and train its teacher if that is a stage of its own.

    Args:
        experiment: The recipe.
        tell: Told in a line what takes long.

    Returns:
        What is on record of the teacher, however long ago it was trained; None if the recipe trains none.

    Raises:
        WeightsError: Published weights that it needs cannot be had.
        TeacherError: The training of the teacher diverged.
        DataError: The cache cannot be written to.
    """
    return next(iter(prepare_all([experiment], tell)), None)


def prepare_all(experiments: Iterable[Experiment], tell: Tell = lambda _: None) -> list[TrainedTeacher]:
    """`prepare` for several recipes: what is on record of their teachers, each once."""
    found: dict[str, TrainedTeacher] = {}
    for experiment in experiments:
        experiment.prepare()
        stage = experiment.teacher_stage
        if stage is not None and stage.fingerprint not in found:
            found[stage.fingerprint] = _record(teacher_file(stage, tell))
            tell(describe(found[stage.fingerprint]))
    return list(found.values())


def teacher_file(stage: Experiment, tell: Tell = lambda _: None) -> Path:
    """Weights of a teacher; trains it if they are nowhere. Of several processes that want the same, one does.

    Args:
        stage: The training of the teacher: `Experiment.teacher_stage`.
        tell: Told in a line what takes long.

    Raises:
        TeacherError: The training diverged.
        DataError: The cache cannot be written to.
    """
    path = supplied(stage.model_name) or stage.model_path
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"Waiting for another process, which trains the {stage.model_name}.")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():
                _train(stage, path, tell)
    except OSError as error:
        raise DataError(
            f"{path.parent}: must keep the weights of a teacher, but: {error}. Name another folder with GCSEARCH_CACHE."
        ) from None
    return path


def _train(stage: Experiment, path: Path, tell: Tell) -> None:
    """Train into the folder of `path`, going on from its checkpoint, and write the weights when all is done."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tell(f"Training the {stage.model_name} on {stage.training.num_images:,} images, once, in {path.parent}")
    outcome = Trainer(stage, directory=path.parent, device=device).fit()
    if outcome.state != "completed":
        raise TeacherError(
            f"objective.teacher: its training must end well, but it {outcome.state}: {outcome.reason} Its settings are "
            "in objective.teacher, those of its network in network."
        )
    checkpoint, result = load_checkpoint(path.parent / "checkpoints" / "latest.pt"), outcome.results[-1]
    metric = f"eval/{stage.evaluation.scores[0].keys[0]}"
    record = TrainedTeacher(
        fingerprint=stage.fingerprint,
        images=result.images,
        train_seconds=result.metrics["cost/train_seconds"],
        evaluation_seconds=result.metrics["cost/evaluation_seconds"],
        forward_units=result.metrics["cost/forward_units"],
        score=result.metrics[metric],
        metric=metric,
    )
    metadata = {"config": json.dumps(spec(stage)), "record": json.dumps(asdict(record))}
    weights = {name: tensor.clone().contiguous() for name, tensor in checkpoint.average.items()}
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata=metadata)


def describe(record: TrainedTeacher) -> str:
    """A teacher's record in a line."""
    return (
        f"Teacher {record.fingerprint[:16]}: {record.images:,} images, {record.train_seconds:.0f} s of training, "
        f"{record.metric.removeprefix('eval/')} {record.score:.3f} with its own solver"
    )


def _record(path: Path) -> TrainedTeacher:
    with safe_open(path, "pt") as file:
        content: dict[str, Any] = json.loads(file.metadata()["record"])
    return TrainedTeacher(**content)
