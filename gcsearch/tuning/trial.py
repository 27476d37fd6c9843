"""What runs in a trial's process: one training, with Ray as the messenger."""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from gcsearch.config import Experiment
from gcsearch.data import Dataset, Examples
from gcsearch.training import Result, Trainer

MESSAGE: Final = "gcsearch"
"""Key of our messages in Tune's reports."""


@lru_cache(maxsize=1)
def _examples(dataset: Dataset) -> Examples:
    """The data set, loaded once per process; reused processes find it here."""
    return dataset.load()


def run_trial(config: dict[str, Any]) -> None:
    """Train one trial and report to Tune. The trainer knows nothing of Ray.

    Every message is one of: ``{"result": ...}`` at a rung, ``{"samples": [images, path]}``, ``{"progress": [images,
    images_per_second]}``, and at last ``{"outcome": {"state": ..., "reason": ...}}``.

    Args:
        config: ``experiment`` (plain data), ``directory`` (of the trial), ``reported_images`` (what the driver already
            has), ``cpus``, ``gpus``, ``paths`` (folders of the user's own modules).
    """
    import torch
    from ray import tune

    sys.path[:] = [*sys.path, *(path for path in config["paths"] if path not in sys.path)]
    torch.set_num_threads(config["cpus"])
    experiment = Experiment.from_dict(config["experiment"], source=f"trial {config['trial']}")

    def send(**message: Any) -> None:
        # As text: Tune flattens nested reports.
        tune.report({MESSAGE: json.dumps(message)})

    def report(result: Result) -> None:
        send(result=dataclasses.asdict(result))

    def on_samples(images: int, path: Path) -> None:
        send(samples=[images, path.name])

    def progress(images: int, images_per_second: float) -> None:
        send(progress=[images, images_per_second])

    try:
        outcome = Trainer(
            experiment,
            examples=_examples(experiment.data),
            directory=Path(config["directory"]),
            device="cuda" if config["gpus"] > 0 else "cpu",
            report=report,
            progress=progress,
            on_samples=on_samples,
            reported_images=config["reported_images"],
        ).fit()
    except Exception as error:
        # Told here because Tune does not pass the error on in time; raised all the same, so that a process whose CUDA
        # context may be broken is not used again.
        send(outcome={"state": "failed", "reason": f"{type(error).__name__}: {str(error).strip() or 'no message'}"})
        raise
    send(outcome={"state": outcome.state, "reason": outcome.reason})
