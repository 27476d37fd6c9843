"""What a step and a sample of a recipe cost on this machine, by a few of them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final

import torch

from gcsearch.config import Experiment
from gcsearch.metrics.evaluate import generate
from gcsearch.science.randomness import draw_step
from gcsearch.science.samplers import Sampler
from gcsearch.training.step import Learner

STAGES: Final = (1 / 6, 1 / 2, 5 / 6)
"""Where in a training steps are measured, since schedules change what a step costs."""

FULL_BATCH_SECONDS: Final = 1.0
"""Longest expected step for which the whole batch is measured; else a part of it, and the time is scaled."""

PROBE_BATCH: Final = 16

NETWORKS: Final = 2
"""Networks that an evaluation judges: the averaged and the current weights."""


def measure(experiment: Experiment, device: torch.device) -> tuple[float, float]:
    """Seconds per image of training, and seconds per generated sample of one of the NETWORKS that are evaluated.

    The images are noise: a step costs the same on any. Steps are not compiled, which would take minutes.
    """
    training, data = experiment.training, experiment.data
    plain = replace(experiment, training=replace(training, compile=False))
    learner = Learner(plain, device, may_be_untrained=True)

    def step(at: int, batch_size: int) -> float:
        draws = draw_step(0, at, batch_size, data.draw_source, device)
        images = torch.rand(batch_size, *data.event_shape, device=device) * 2 - 1
        started = _now(device)
        learner.step(images, draws, at)
        return _now(device) - started

    probe = min(PROBE_BATCH, training.batch_size)
    step(0, probe)  # the first one also sets things up
    seconds = step(0, probe)
    batch_size = training.batch_size if seconds * training.batch_size / probe < FULL_BATCH_SECONDS else probe
    stages = [int(stage * training.num_steps) for stage in STAGES]
    if batch_size > probe:
        step(0, batch_size)
    train = sum(_shortest(step, at, batch_size) for at in stages) / (len(stages) * batch_size)

    def sample(sampler: Sampler) -> float:
        started, count = _now(device), 4 * probe
        generate(
            learner.models.ema,
            sampler,
            0,
            count,
            seed=0,
            source=data.draw_source,
            is_image=len(data.event_shape) == 3,
            device=device,
        )
        return (_now(device) - started) / count

    evaluation = experiment.evaluation
    # Further samplers draw from one network only.
    return train, sample(evaluation.sampler) + sum(map(sample, evaluation.further_samplers)) / NETWORKS


def _shortest(step: Any, at: int, batch_size: int) -> float:
    """The shorter one of two tries: other work on the machine only ever adds."""
    return float(min(step(at, batch_size) for _ in range(2)))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
