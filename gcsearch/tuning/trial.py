"""What runs in a trial's process: one training, with Ray as the messenger."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

from gcsearch.config import Experiment
from gcsearch.data import Dataset, Examples
from gcsearch.training import Result, Trainer


@lru_cache(maxsize=1)
def _examples(dataset: Dataset) -> Examples:
    """The data set, loaded once per process; reused processes find it here."""
    return dataset.load()


def run_trial(config: dict[str, Any]) -> None:
    """Train one trial and report to Tune. The trainer knows nothing of Ray.

    Every report is one of: ``{"result": ...}`` at a rung, ``{"samples": [images, path]}``, ``{"progress": [images,
    images_per_second]}``, and at last ``{"outcome": {"state": ..., "reason": ...}}``.

    Args:
        config: ``experiment`` (plain data), ``directory`` (of the trial), ``reported_images`` (what the driver already
            has), ``cpus``, ``gpus``.
    """
    import torch
    from ray import tune

    torch.set_num_threads(config["cpus"])
    experiment = Experiment.from_dict(config["experiment"], source=f"trial {config['trial']}")

    def report(result: Result) -> None:
        tune.report({"result": dataclasses.asdict(result)})

    def on_samples(images: int, path: Path) -> None:
        tune.report({"samples": [images, path.name]})

    outcome = Trainer(
        experiment,
        examples=_examples(experiment.data),
        directory=Path(config["directory"]),
        device="cuda" if config["gpus"] > 0 else "cpu",
        report=report,
        progress=lambda images, speed: tune.report({"progress": [images, speed]}),
        on_samples=on_samples,
        reported_images=config["reported_images"],
    ).fit()
    tune.report({"outcome": {"state": outcome.state, "reason": outcome.reason}})
