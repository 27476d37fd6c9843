"""The level of a second step for a trained model: what `gcsearch evaluate --search-level` runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from gcsearch.errors import ConfigError
from gcsearch.evaluation import Request, check_request, holds_images, load_protocol
from gcsearch.export import steps_sampler
from gcsearch.metrics.parallel import evaluate_in_processes

COARSE_LEVELS: Final = 12
"""Levels of the grid whose inner points are tried first as a second step."""


@dataclass(frozen=True, kw_only=True)
class LevelSearch:
    """Which second level suits a trained model.

    Attributes:
        key: The score, e.g. ``fid``.
        lower_is_better: Its direction.
        identity: Its identity on fresh latents, with the best level.
        found: Level and score of every level tried, in increasing order, all with the same latents.
        best: The level of the best score.
        fresh: Score of the best level with other latents: that of `found` was chosen, so it flatters.
        one_step: Score of a single evaluation with these.
        num_samples: Samples of every score.
        seed: Of the latents of `found`; fresh ones have the next number.
    """

    key: str
    lower_is_better: bool
    identity: str
    found: tuple[tuple[float, float], ...]
    best: float
    fresh: float
    one_step: float
    num_samples: int
    seed: int


def search_level(request: Request, on_stage: Callable[[str], None] = lambda _: None) -> LevelSearch:
    """Try levels for the second of two steps, without any training, and confirm the best one on fresh latents.

    Tries the inner points of the process's grid of `COARSE_LEVELS` levels, then the two halfway to the neighbours of
    the best of them. Latents are common to all, so that differences are those of the levels.

    Args:
        request: A model, and how to score it; the first of its metrics decides.
        on_stage: Told what is being computed, before each part.

    Raises:
        GCSearchError: The request means nothing, or something it names is missing or damaged.
    """
    check_request(request)
    if request.steps not in (None, 2):
        raise ConfigError(
            f"--steps: must be left out where the level of a second step is searched, got {request.steps}."
        )
    if holds_images(request.path):
        raise ConfigError(f"{request.path}: must be a model where a level is searched, but it is a folder of images.")
    if request.device == "cpu":
        torch.set_num_threads(1)
    experiment, function, evaluator = load_protocol(request, on_stage)
    key = evaluator.metrics[0].keys[0]
    lower = evaluator.metrics[0].lower_is_better

    def score(steps: int, levels: Sequence[float] | None, seed: int) -> float:
        what = "one step" if levels is None else f"second level {levels[0]:.4g}"
        on_stage(f"{what}: {evaluator.num_samples:,} samples with seed {seed}")
        one = dataclasses.replace(evaluator, sampler=steps_sampler(experiment, steps, levels), seed=seed)
        value = evaluate_in_processes(one, function, request.num_workers).scores[key]
        return value if math.isfinite(value) else math.inf if lower else -math.inf

    # Four digits, so that a level that is printed is the one that was tried.
    grid = [float(f"{level:.4g}") for level in experiment.process.grid(2 * COARSE_LEVELS - 1).tolist()]
    found: dict[int, float] = {}

    def best() -> int:
        return (min if lower else max)(found, key=lambda index: found[index])

    for index in range(2, len(grid) - 2, 2):
        found[index] = score(2, [grid[index]], evaluator.seed)
    centre = best()
    for index in (centre - 1, centre + 1):
        found[index] = score(2, [grid[index]], evaluator.seed)
    if not math.isfinite(found[best()]):
        raise ConfigError(f"{request.path}: the output of the network is not finite, so no level has a score.")
    chosen = grid[best()]
    sampler = steps_sampler(experiment, 2, [chosen])
    fresh = dataclasses.replace(evaluator, sampler=sampler, seed=evaluator.seed + 1)
    return LevelSearch(
        key=key,
        lower_is_better=lower,
        identity=fresh.identities[key],
        found=tuple((grid[index], found[index]) for index in sorted(found)),
        best=chosen,
        fresh=score(2, [chosen], fresh.seed),
        one_step=score(1, None, fresh.seed),
        num_samples=evaluator.num_samples,
        seed=evaluator.seed,
    )
