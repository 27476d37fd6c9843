"""What every edit provides, and the loop that all of them share.

To add an edit: a frozen dataclass beside its relatives with `@edits.register("name")`.

Source: Song et al. 2023 (Consistency Models), section 4.3 and Algorithm 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from gcsearch.registry import Component, Registry
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import Process, karras_grid
from gcsearch.science.samplers import StageNoise
from gcsearch.science.shapes import Batch, Images

NUM_EVALUATIONS: Final = 17
"""Evaluations of an edit by default: the 18 levels of the paper's grid without the last, where f does nothing."""


class Edit(Component, ABC):
    """A way to change images, in [-1, 1]."""

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Raise ValueError if images of this shape cannot be edited so."""
        if len(event_shape) != 3:
            raise ValueError(f"must be applied to images (channels, height, width), got examples of {event_shape}")

    @abstractmethod
    def begin_level(self, process: Process) -> float:
        """Level of the first evaluation."""

    @property
    def num_evaluations(self) -> int:
        """Evaluations if nothing else is asked for."""
        return NUM_EVALUATIONS

    def levels(self, process: Process, num_evaluations: int | None = None) -> tuple[float, ...]:
        """Levels of the evaluations after the first: inner points of the grid from the smallest level to the first."""
        num = self.num_evaluations if num_evaluations is None else num_evaluations
        grid = karras_grid(num + 1, process.sigma_min, self.begin_level(process), process.rho)
        return tuple(grid.tolist()[-2:0:-1])

    def seen(self, process: Process, reference: Images, noise: Batch) -> Images:
        """What the network is shown of the reference, as an image."""
        del process, noise
        return self.known(reference)

    @abstractmethod
    def known(self, reference: Images) -> Images:
        """What the edit sees of the reference, with something plain for the rest."""

    @abstractmethod
    def impose(self, estimate: Images, reference: Images) -> Images:
        """The estimate with what is known put back."""


edits: Registry[Edit] = Registry("edit")


@torch.no_grad()
def edit(
    function: ConsistencyFunction,
    rule: Edit,
    reference: Images,
    noise: StageNoise,
    levels: Sequence[float] | None = None,
) -> Images:
    """Edited images.

    x = impose(f(known + noise, sigma), y), then for decreasing tau: x = impose(f(renoise(clip(x), tau), tau), y)

    Args:
        function: Consistency function of the data.
        rule: The edit.
        reference: Images y.
        noise: Noise of each stage.
        levels: Levels of the evaluations after the first, decreasing, below the first one; None for the edit's own.

    Returns:
        Images; not clipped, so that what is known of the reference is there up to rounding.

    Raises:
        ValueError: The levels, or the edit, do not fit the process.

    Source: CM Algorithm 4. The published notebook starts it without noise, as it takes an index for a level.
    """
    process = function.process
    first = rule.begin_level(process)
    chosen = rule.levels(process) if levels is None else tuple(levels)
    if any(later >= earlier for earlier, later in zip((first, *chosen), chosen, strict=False)):
        raise ValueError(f"levels must be decreasing and below {first:g}, where the edit begins, got {list(chosen)}")
    if chosen and not chosen[-1] > process.sigma_min:
        raise ValueError(f"levels must be above sigma_min = {process.sigma_min}, got {list(chosen)}")

    def evaluated(state: Images, level: float) -> Images:
        return rule.impose(function(state, _full(level, state)), reference)

    known = rule.known(reference)
    estimate = evaluated(process.add_noise(known, noise(0), _full(first, known)), first)
    for stage, level in enumerate(chosen, start=1):
        state = process.renoise(estimate.clamp(-1, 1), noise(stage), _full(level, estimate))
        estimate = evaluated(state, level)
    return estimate


def _full(level: float, like: Batch) -> Tensor:
    return torch.full(like.shape[:1], level, dtype=like.dtype, device=like.device)
