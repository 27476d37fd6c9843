"""One training with a ledger of its own: what `gcsearch train` runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gcsearch.config import Experiment
from gcsearch.config.documents import dump_yaml
from gcsearch.errors import ConfigError, StudyError, disk_full, is_disk_full
from gcsearch.files import write_text
from gcsearch.ledger import LEDGER_NAME, Event, LedgerWriter, StudyState, TrialRecord, read_events
from gcsearch.provenance import provenance
from gcsearch.training.teacher_stage import TEACHER, TrainedTeacher, prepare
from gcsearch.training.trainer import Outcome, Result, Trainer

TRIAL = "0000"
"""Number of the only trial of such a ledger."""


class TrainingRecord:
    """The ledger of one training, and the folder around it.

    Args:
        experiment: The recipe.
        directory: The folder.
        ledger: Open writer of its ledger.
        on_event: Told of every event, those of earlier runs first.
        teacher: What is on record of the experiment's teacher, if one was trained for it.
    """

    def __init__(
        self,
        experiment: Experiment,
        directory: Path,
        ledger: LedgerWriter,
        on_event: Callable[[Event], None],
        teacher: TrainedTeacher | None = None,
    ) -> None:
        self.experiment = experiment
        self.teacher = teacher
        self.directory = directory
        self.ledger = ledger
        self.on_event = on_event
        self.earlier = read_events(directory / LEDGER_NAME)
        self.state = StudyState(self.earlier)

    @property
    def reported_images(self) -> int:
        """Images of the last result that the ledger has."""
        return self.state.trials[TRIAL].images if TRIAL in self.state.trials else 0

    def begin(self) -> TrialRecord:
        """Write what comes before the training."""
        for event in self.earlier:
            self.on_event(event)
        experiment, metric = self.experiment, self.experiment.evaluation.scores[0]
        goal = "minimize" if metric.lower_is_better else "maximize"
        self.write(
            "study_started",
            study=experiment.name,
            objective={"metric": metric.keys[0], "key": f"eval/{metric.keys[0]}", "goal": goal, "use": "last"},
            keys=[],
            horizon_images=experiment.training.num_images,
            trials=1,
            provenance=provenance(experiment=experiment.seed, evaluation=experiment.evaluation.seed),
        )
        if self.teacher is not None:
            self.write(TEACHER, **asdict(self.teacher))
        write_text(self.directory / "config.yaml", dump_yaml(experiment.to_dict()))
        return self.start()

    def start(self) -> TrialRecord:
        """Write that the training starts, or goes on."""
        experiment = self.experiment
        self.write(
            "trial_started",
            trial=TRIAL,
            kind="training",
            params={},
            config=experiment.to_dict(),
            fingerprint=experiment.fingerprint,
            recipe=experiment.recipe_fingerprint,
            seed=experiment.seed,
        )
        return self.state.trials[TRIAL]

    def write(self, event: str, **fields: Any) -> None:
        """Append an event and tell of it."""
        record = self.ledger.append(event, **fields)
        self.state.apply(record)
        self.on_event(record)

    def result(self, images: int, metrics: dict[str, float], identities: dict[str, str]) -> None:
        """Write a result."""
        self.write("result", trial=TRIAL, images=images, metrics=metrics, identities=identities)

    def samples(self, images: int, path: Path) -> None:
        """Write that there is a sample grid."""
        self.write("samples", trial=TRIAL, images=images, path=path.relative_to(self.directory).as_posix())

    def usage(self, images: int, metrics: dict[str, float]) -> None:
        """Write how busy the machine was."""
        self.write("usage", trial=TRIAL, images=images, metrics=metrics)

    def end(self, state: str, reason: str | None) -> None:
        """Write how the training ended. One that was asked to stop is not over: the same call goes on."""
        is_interrupted = state in ("stopped", "interrupted")
        ended = "interrupted" if is_interrupted else state
        self.write("trial_ended", trial=TRIAL, state=ended, reason=reason, images=self.reported_images)
        self.write("study_interrupted" if is_interrupted else "study_ended")


def run_training(
    experiment: Experiment,
    directory: Path,
    *,
    device: torch.device | str = "cpu",
    num_threads: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
    on_event: Callable[[Event], None] = lambda _: None,
    on_progress: Callable[[str, int, float], None] = lambda *_: None,
) -> Outcome:
    """Train one experiment in this process into a folder, going on from the folder's checkpoint if there is one.

    Args:
        experiment: The recipe.
        directory: Gets ledger, configuration, checkpoints and samples.
        device: Where to train.
        num_threads: CPU threads; part of what makes a training repeatable to the last bit.
        should_stop: Asked before every step.
        on_event: Told of every event, those of earlier runs first.
        on_progress: Told of the trial, images seen and images per second.

    Raises:
        StudyError: The disk is full.
        WeightsError: Published weights that the experiment needs cannot be had. Nothing was written.
        TeacherError: The training of its teacher diverged. Nothing was written.
    """
    torch.set_num_threads(num_threads)
    teacher = prepare(experiment)
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        record = TrainingRecord(experiment, directory, ledger, on_event, teacher)

        def report(result: Result) -> None:
            record.result(result.images, result.metrics, result.identities)

        trainer = Trainer(
            experiment,
            directory=directory,
            device=device,
            report=report,
            should_stop=should_stop,
            progress=lambda images, speed: on_progress(TRIAL, images, speed),
            on_samples=record.samples,
            on_usage=record.usage,
            reported_images=record.reported_images,
        )
        trainer.check_checkpoint()
        record.begin()
        try:
            outcome = trainer.fit()
        except OSError as error:
            if is_disk_full(error):
                raise StudyError(disk_full(error.filename or directory)) from None
            raise
        record.end(outcome.state, outcome.reason)
        return outcome


def available_device() -> str:
    """``cuda`` if there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES") != "" else "cpu"


def chosen_device(name: str) -> str:
    """Device for what a user asked for: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: Another word, or this machine has no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device must be auto, cpu or cuda, got '{name}'.")
    if name == "cuda" and available_device() != "cuda":
        raise ConfigError("--device cuda: this machine has no CUDA device. Use --device cpu.")
    return available_device() if name == "auto" else name
