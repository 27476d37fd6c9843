"""Teachers: trained denoisers, frozen, whose probability flow an objective follows or whose weights it starts from.

A teacher is D(x, sigma) = E[data | x]; `gcsearch.science.flows` has the slope of the flow that follows from it. The
components here say where the weights come from; `gcsearch.training.pretrained` reads them. To add one: a frozen
dataclass below with `@teachers.register("name")`.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gcsearch.files import model_file
from gcsearch.registry import Component, Registry
from gcsearch.science.ema import EMA, PowerWarmup
from gcsearch.science.networks import Network
from gcsearch.science.optimizers import Adam, Optimizer
from gcsearch.science.schedules import Levels, Lognormal


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


@teachers.register("edm")
@dataclass(frozen=True, kw_only=True)
class PublishedEDM(Teacher):
    """The averaged weights of a checkpoint in the format of EDM's code, NVlabs/edm: ``edm-*-uncond-*.pkl``.

    Such a file is the pickle of an object with its source code. Nothing in it is run: weights and settings are taken
    out, and everything else is refused. It must hold EDMPrecond around SongUNet without class labels. The process must
    be ``ve`` with its sigma_data, and the data must have its shape.

    Attributes:
        path: The file.
    """

    path: str = "edm.pkl"

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(f"path must name a file, got {self.path!r}")

    def files(self) -> dict[str, Path]:
        return {self.path: Path(self.path)}


@teachers.register("trained")
@dataclass(frozen=True, kw_only=True)
class Trained(Teacher):
    """A denoiser that is trained for the purpose, once, before the trainings that need it.

    It is a training of its own with the objective ``denoising`` and independent coupling, on the experiment's data and
    process; the fields below say the rest. Its averaged weights are kept in the cache under the fingerprint of that
    training, so that all trials of a study, and whoever asks for the same again, use one teacher. A field of it that a
    search varies, or a network or process that it takes from an experiment in which they vary, makes a teacher each.

    Attributes:
        num_images: Images of its training.
        batch_size: Images per step.
        network: Its network; null takes the experiment's, as a student needs that starts with its weights.
        levels: Proposal of its noise levels.
        optimizer: Its optimizer.
        ema: Average of its weights.
        seed: Seed of its training, which the seeds of students do not change.
        precision: Arithmetic inside the network.
        compile: Compile its steps with torch.compile.

    Source: EDM section 5 for the proposal (mean -1.2, standard deviation 1.2 of ln sigma) and Adam.
    """

    num_images: int = 512_000
    batch_size: int = 128
    network: Network | None = None
    levels: Levels = field(default_factory=lambda: Lognormal(mean=-1.2, std=1.2))
    optimizer: Optimizer = field(default_factory=Adam)
    ema: EMA = field(default_factory=PowerWarmup)
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size > self.num_images:
            raise ValueError(f"batch_size must be at most num_images = {self.num_images}, got {self.batch_size}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
