"""Teachers: trained denoisers, frozen, whose probability flow an objective follows or whose weights it starts from.

A teacher is D(x, sigma) = E[data | x]; `gcsearch.science.flows` has the slope of the flow that follows from it. The
components here say where the weights come from; `gcsearch.training.pretrained` reads them. To add one: a frozen
dataclass below with `@teachers.register("name")`.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from pathlib import Path

from gcsearch.files import model_file
from gcsearch.registry import Component, Registry


class Teacher(Component, ABC):
    """Where the weights of a teacher come from."""


teachers: Registry[Teacher] = Registry("teacher")


@teachers.register("checkpoint")
@dataclass(frozen=True, kw_only=True)
class TrainedBefore(Teacher):
    """The averaged weights of an earlier training with the objective ``denoising``.

    Its data must have the shape of the experiment's, and its process must be the same.

    Attributes:
        path: A checkpoint of gcsearch (``checkpoints/latest.pt``), or an export: the folder or its
            ``model.safetensors``.
    """

    path: str = "teacher.pt"

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(f"path must name a file, got {self.path!r}")

    def files(self) -> dict[str, Path]:
        return {self.path: model_file(Path(self.path))}
