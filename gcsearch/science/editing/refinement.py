"""Edits that draw an image like the given one: denoising, and images from strokes."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

import torch

from gcsearch.science.editing.base import Edit, edits
from gcsearch.science.preconditioning import per_example
from gcsearch.science.process import Process
from gcsearch.science.shapes import Batch, Images


class Refinement(Edit, ABC):
    """Draws an image like the reference: noise of some level is added and taken away again. Nothing is put back.

    Attributes:
        sigma: The level, inside (sigma_min, sigma_max] of the process.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma must be > 0, got {self.sigma}")

    def begin_level(self, process: Process) -> float:
        if not process.sigma_min < self.sigma <= process.sigma_max:
            raise ValueError(
                f"sigma must be above sigma_min = {process.sigma_min} and at most sigma_max = {process.sigma_max}, got "
                f"{self.sigma}"
            )
        return self.sigma

    def seen(self, process: Process, reference: Images, noise: Batch) -> Images:
        sigma = torch.full(reference.shape[:1], self.begin_level(process)).to(reference)
        share = per_example(process.coefficients(sigma).data, reference)
        return process.add_noise(reference, noise, sigma) / share

    def known(self, reference: Images) -> Images:
        return reference

    def impose(self, estimate: Images, reference: Images) -> Images:
        del reference
        return estimate


@edits.register("denoise")
@dataclass(frozen=True, kw_only=True)
class Denoise(Refinement):
    """Takes noise away, in one evaluation.

    Attributes:
        sigma: Level of the noise.
    """

    sigma: float = 0.5

    @property
    def num_evaluations(self) -> int:
        return 1


@edits.register("stroke")
@dataclass(frozen=True, kw_only=True)
class Stroke(Refinement):
    """Makes an image of a coarse painting, as SDEdit does.

    Attributes:
        sigma: Level of the noise that hides the strokes: more is more like the data and less like the painting.
    """

    sigma: float = 5.38
