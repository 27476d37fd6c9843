"""One training with a ledger of its own: what `gcsearch train` runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gcsearch.config import Experiment
from gcsearch.config.documents import dump_yaml
from gcsearch.errors import ConfigError
from gcsearch.files import write_text
from gcsearch.ledger import LEDGER_NAME, Event, LedgerWriter, StudyState, read_events
from gcsearch.training.trainer import Outcome, Result, Trainer

TRIAL = "0000"
"""Number of the only trial of such a ledger."""


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
    """Train one experiment into a folder, going on from the folder's checkpoint if there is one.

    Args:
        experiment: The recipe.
        directory: Gets ledger, configuration, checkpoints and samples.
        device: Where to train.
        num_threads: CPU threads; part of what makes a training repeatable to the last bit.
        should_stop: Asked before every step.
        on_event: Told of every event, those of earlier runs first.
        on_progress: Told of the trial, images seen and images per second.

    Raises:
        WeightsError: Published weights that the experiment needs cannot be had. Nothing was written.
    """
    experiment.prepare()
    torch.set_num_threads(num_threads)
    metric = experiment.evaluation.scores[0]
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        events = read_events(directory / LEDGER_NAME)
        state = StudyState(events)

        def write(event: str, **fields: Any) -> None:
            record = ledger.append(event, **fields)
            state.apply(record)
            on_event(record)

        def report(result: Result) -> None:
            write("result", trial=TRIAL, images=result.images, metrics=result.metrics, identities=result.identities)

        trainer = Trainer(
            experiment,
            directory=directory,
            device=device,
            report=report,
            should_stop=should_stop,
            progress=lambda images, speed: on_progress(TRIAL, images, speed),
            on_samples=lambda images, path: write(
                "samples", trial=TRIAL, images=images, path=path.relative_to(directory).as_posix()
            ),
            reported_images=state.trials[TRIAL].images if TRIAL in state.trials else 0,
        )
        trainer.check_checkpoint()
        for event in events:
            on_event(event)
        goal = "minimize" if metric.lower_is_better else "maximize"
        write(
            "study_started",
            study=experiment.name,
            objective={"metric": metric.keys[0], "key": f"eval/{metric.keys[0]}", "goal": goal, "use": "last"},
            keys=[],
            horizon_images=experiment.training.num_images,
            trials=1,
        )
        write_text(directory / "config.yaml", dump_yaml(experiment.to_dict()))
        write(
            "trial_started",
            trial=TRIAL,
            kind="training",
            params={},
            config=experiment.to_dict(),
            fingerprint=experiment.fingerprint,
            recipe=experiment.recipe_fingerprint,
            seed=experiment.seed,
        )
        outcome = trainer.fit()
        # A training that was asked to stop is not over: the same call goes on.
        ended = "interrupted" if outcome.state == "stopped" else outcome.state
        write("trial_ended", trial=TRIAL, state=ended, reason=outcome.reason, images=state.trials[TRIAL].images)
        write("study_interrupted" if outcome.state == "stopped" else "study_ended")
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
