"""A complete recipe: what an experiment file says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from gcsearch.config.build import build, build_settings
from gcsearch.config.documents import Document
from gcsearch.config.imports import import_modules
from gcsearch.config.sections import Evaluation, Training
from gcsearch.data import Dataset
from gcsearch.errors import FieldError
from gcsearch.files import default_cache_dir
from gcsearch.metrics import Extractor
from gcsearch.metrics.fid import FID
from gcsearch.metrics.scoring import check_metric
from gcsearch.registry import files_of, spec
from gcsearch.science.couplings import Coupling, Generator, Independent
from gcsearch.science.distances import Distance, PseudoHuber
from gcsearch.science.ema import EMA, PowerWarmup
from gcsearch.science.networks import Network
from gcsearch.science.networks.base import initialize, seeded
from gcsearch.science.networks.unet import UNet
from gcsearch.science.objectives import Objective, Recipe, TensorObjective
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.science.objectives.denoising import Denoising
from gcsearch.science.optimizers import Lion, Optimizer
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import Process, VarianceExploding
from gcsearch.science.samplers import Gamma, Heun, Multistep
from gcsearch.science.schedules import Fixed, InverseGap, Levels, Lognormal, Timesteps, Weighting
from gcsearch.science.teachers import Trained


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A complete recipe; every field is a section of the experiment file.

    Attributes:
        imports: Modules of the user's own that register components; imported before anything is built.
        seed: Seed of weights, data order, noise and levels.
    """

    name: str
    imports: tuple[str, ...] = ()
    seed: int = 0
    data: Dataset
    network: Network = field(default_factory=UNet)
    process: Process = field(default_factory=VarianceExploding)
    timesteps: Timesteps = field(default_factory=Fixed)
    levels: Levels = field(default_factory=Lognormal)
    weighting: Weighting = field(default_factory=InverseGap)
    coupling: Coupling = field(default_factory=Generator)
    objective: Objective = field(default_factory=Consistency)
    distance: Distance = field(default_factory=PseudoHuber)
    optimizer: Optimizer = field(default_factory=Lion)
    ema: EMA = field(default_factory=PowerWarmup)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError(f"name must not be empty, got {self.name!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        shape = self.data.event_shape
        checks = {
            "network": self.network.check,
            "distance": self.distance.check,
            "evaluation.extractor": self.extractor.accepts,
        }
        for section, check in checks.items():
            try:
                check(shape)
            except ValueError as error:
                raise FieldError(section, f"does not fit the data '{self.data.name}': {error}") from None
        for metric in self.evaluation.scores:
            try:
                check_metric(metric, self.extractor)
            except ValueError as error:
                raise FieldError("evaluation.metrics", f"does not fit the extractor: {error}") from None
        objective, needed = self.objective, self.objective.needs_process
        if needed is not None and self.process.name != needed:
            raise FieldError(
                "process",
                f"must be '{needed}' for the objective '{objective.name}', got '{self.process.name}'. Set "
                f"process.name={needed}",
            )
        if objective.needs_whole_batch and self.training.num_workers > 1:
            raise FieldError(
                "training.num_workers",
                f"must be 1 for the objective '{objective.name}', whose loss needs the whole batch, got "
                f"{self.training.num_workers}",
            )
        if self.training.compile and not isinstance(objective, TensorObjective):
            raise FieldError(
                "training.compile",
                f"must be false for the objective '{objective.name}', whose loss is not one function of tensors, got "
                "true",
            )
        if self.training.compile and not self.optimizer.can_compile:
            raise FieldError(
                "training.compile",
                f"must be false for the optimizer '{self.optimizer.name}', which has no method `moved`, got true",
            )
        if objective.num_conditions > self.network.max_conditions:
            raise FieldError(
                "network",
                f"must take {objective.num_conditions} levels for the objective '{objective.name}', got "
                f"'{self.network.name}', which takes {self.network.max_conditions}",
            )
        if self.evaluation.every_images > self.training.num_images:
            raise FieldError(
                "evaluation.every_images",
                f"must be at most training.num_images = {self.training.num_images}, got {self.evaluation.every_images}",
            )
        try:
            objective.check(self.recipe)
            objective.check_training(self.network, shape, self.training.num_images)
        except ValueError as error:
            raise FieldError("objective", f"'{objective.name}' {error}") from None
        try:
            _ = self.teacher_stage
        except ValueError as error:
            raise FieldError("objective.teacher", str(error)) from None
        evaluation, process = self.evaluation, self.process
        try:
            grid = process.grid(2)
        except (RuntimeError, OverflowError):  # sigma_max beyond float32, or rho next to 0
            raise FieldError("process", f"must have a grid of finite levels, got {spec(process)}") from None
        if not bool(self.levels.probabilities(grid).isfinite().all()):
            raise FieldError(
                "levels",
                f"must put weight between sigma_min = {process.sigma_min} and sigma_max = {process.sigma_max}, got "
                f"{spec(self.levels)}",
            )
        places = ("sampler", *(f"further_samplers.{index}" for index in range(len(evaluation.further_samplers))))
        for place, sampler in zip(places, evaluation.samplers.values(), strict=True):
            if sampler.needs_trajectory and not objective.trains_trajectory:
                raise FieldError(
                    f"evaluation.{place}",
                    f"must not be '{sampler.name}' for the objective '{objective.name}': it asks for states between "
                    "levels, which takes a network that is trained to give them. Use the objective ctm, or the sampler "
                    "multistep",
                )
            if isinstance(sampler, Multistep | Gamma) and not (
                process.sigma_min < sampler.levels[-1] and sampler.levels[0] < process.sigma_max
            ):
                raise FieldError(
                    f"evaluation.{place}.levels",
                    f"must lie between sigma_min = {process.sigma_min} and sigma_max = {process.sigma_max}, "
                    f"got {list(sampler.levels)}",
                )

    def new_network(self, seed: int) -> nn.Module:
        """The network with fresh weights that depend on `seed` only."""
        return initialize(self.network, self.data.event_shape, seed, self.objective.num_conditions)

    def new_companion(self, seed: int) -> nn.Module | None:
        """The module that the objective trains beside the network, if it has one, with fresh weights."""
        with seeded(seed):
            return self.objective.companion(self.data.event_shape)

    def function(self, network: nn.Module) -> ConsistencyFunction:
        """What the recipe trains and samples, from a network that `new_network` made."""
        return self.objective.function(network, self.process, self.training.precision)

    @property
    def extractor(self) -> Extractor:
        """The feature extractor, with ``auto`` resolved."""
        name = self.evaluation.extractor
        extractor: Extractor = build("extractor", self.data.default_extractor if name == "auto" else name)
        return extractor

    def prepare(self) -> None:
        """Fetch what the recipe needs beyond its fields and data; called before a training or study begins.

        Raises:
            WeightsError: Published weights that it needs cannot be had.
        """
        self.distance.prepare()
        self.extractor.prepare()

    def files(self) -> dict[str, Path]:
        """Files outside the package that the training reads: see `gcsearch.registry.Component.files`."""
        stage = self.teacher_stage
        teacher = {} if stage is None else {stage.model_name: stage.model_path}
        return files_of(self) | files_of(self.extractor) | teacher

    @property
    def teacher_stage(self) -> Experiment | None:
        """The training of the objective's teacher, if that is a stage of its own: see `Trained`."""
        teacher = self.objective.teacher
        if not isinstance(teacher, Trained):
            return None
        return Experiment(
            name="teacher",
            imports=self.imports,
            seed=teacher.seed,
            data=self.data,
            network=teacher.network or self.network,
            process=self.process,
            levels=teacher.levels,
            coupling=Independent(),
            objective=Denoising(),
            optimizer=teacher.optimizer,
            ema=teacher.ema,
            training=Training(
                num_images=teacher.num_images,
                batch_size=teacher.batch_size,
                precision=teacher.precision,
                compile=teacher.compile,
            ),
            evaluation=Evaluation(
                every_images=teacher.num_images,
                metrics=(FID(),),
                sampler=Heun(),
                extractor=self.evaluation.extractor,
            ),
        )

    @property
    def model_name(self) -> str:
        """Name of the weights of this training as a teacher."""
        return f"teacher {self.fingerprint[:16]}"

    @property
    def model_path(self) -> Path:
        """Where these weights are kept on this machine."""
        return default_cache_dir() / "teachers" / self.fingerprint[:16] / "model.safetensors"

    @property
    def recipe(self) -> Recipe:
        """The scientific choices, as objectives take them."""
        return Recipe(
            process=self.process,
            timesteps=self.timesteps,
            levels=self.levels,
            weighting=self.weighting,
            coupling=self.coupling,
            distance=self.distance,
        )

    @property
    def rungs(self) -> tuple[int, ...]:
        """Numbers of images at which a training is evaluated, increasing, ending with the horizon."""
        every, horizon = self.evaluation.every_images, self.training.num_images
        return (*range(every, horizon, every), horizon)

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical configuration without name and workers: equal if and only if the trainings are."""
        return _digest({key: value for key, value in self.to_dict().items() if key != "name"})

    @property
    def recipe_fingerprint(self) -> str:
        """`fingerprint` without the seed: groups the replicates of one recipe."""
        return _digest({key: value for key, value in self.to_dict().items() if key not in ("name", "seed")})

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_document` reads back to an equal experiment, with every default written out."""
        return spec(self)

    @classmethod
    def from_document(cls, document: Document) -> Experiment:
        """Experiment from parsed data, with places for messages."""
        import_modules(document)
        return build_settings(cls, document.data, document)

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "configuration") -> Experiment:
        """Experiment from plain data."""
        return cls.from_document(Document(data, source))


def _digest(data: dict[str, Any]) -> str:
    training = {key: value for key, value in data["training"].items() if key != "num_workers"}
    data = data | {"training": training}
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
