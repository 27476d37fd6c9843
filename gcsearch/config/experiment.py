"""A complete recipe: what an experiment file says."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from gcsearch.config.build import build, build_settings
from gcsearch.config.documents import Document
from gcsearch.config.imports import import_modules
from gcsearch.data import Dataset
from gcsearch.errors import FieldError, suggestion
from gcsearch.files import default_cache_dir
from gcsearch.metrics import Extractor, Metric, ModelMetric, SampleMetric, extractors
from gcsearch.metrics.fid import FID
from gcsearch.metrics.kid import KID
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
from gcsearch.science.samplers import Gamma, Heun, Multistep, OneStep, Sampler
from gcsearch.science.schedules import Fixed, InverseGap, Levels, Lognormal, Timesteps, Weighting
from gcsearch.science.teachers import Trained


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and how to train.

    Attributes:
        num_images: Horizon: images seen by a full training. Every schedule is a function of images / num_images.
        batch_size: Images per step, over all workers.
        precision: Arithmetic inside the network.
        compile: Compile a step with torch.compile: loss and gradient to one graph, what follows to another. Not for
            every objective: `gcsearch.science.objectives.TensorObjective`.
        num_workers: Processes that share every batch. They train as one process would, up to the order of additions,
            so this is how a recipe is run and no part of it: fingerprints leave it out.
    """

    num_images: int = 512_000
    batch_size: int = 128
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    num_workers: int = 1

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "num_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size > self.num_images:
            raise ValueError(f"batch_size must be at most num_images = {self.num_images}, got {self.batch_size}")
        if self.batch_size % self.num_workers:
            raise ValueError(
                f"batch_size must be a multiple of num_workers = {self.num_workers}, got {self.batch_size}"
            )

    @property
    def num_steps(self) -> int:
        """Optimizer steps of a full training; the last may go past num_images by less than a batch."""
        return math.ceil(self.num_images / self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How trainings are judged.

    Attributes:
        every_images: Images between evaluations; these points are the rungs of a search. The end is always one.
        num_samples: Generated samples per evaluation.
        metrics: Scores to compute, and diagnostics. The first must be a score: its best weights are kept.
        sampler: How samples are drawn.
        further_samplers: Also draw in these ways, from the same latents, and score the averaged weights under
            ``eval/<key>_<evaluations>step``, e.g. ``eval/fid_2step``.
        extractor: Feature extractor; ``auto`` takes the data set's own.
        seed: Seed of the latents, which every trial of a study shares.
    """

    every_images: int = 64_000
    num_samples: int = 2_000
    metrics: tuple[Metric, ...] = (FID(), KID())
    sampler: Sampler = field(default_factory=OneStep)
    further_samplers: tuple[Sampler, ...] = ()
    extractor: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.every_images < 1:
            raise ValueError(f"every_images must be at least 1, got {self.every_images}")
        if self.num_samples < 16:
            raise ValueError(f"num_samples must be at least 16, got {self.num_samples}")
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"metrics must name at least one metric and none twice, got {names}")
        if not isinstance(self.metrics[0], SampleMetric):
            raise ValueError(
                f"metrics must begin with a score of samples, whose best weights are kept, got {names}. Put fid or "
                f"kid before {names[0]}"
            )
        keys = [f"{metric.section}/{key}" for metric in self.metrics for key in metric.keys]
        if len(set(keys)) < len(keys):
            raise ValueError(f"metrics must have different keys, got {keys}")
        evaluations = [sampler.num_evaluations for sampler in (self.sampler, *self.further_samplers)]
        if len(set(evaluations)) < len(evaluations):
            raise ValueError(
                "further_samplers must differ from sampler and each other in their numbers of network evaluations, "
                f"which name the scores, got {evaluations[1:]} beside {evaluations[0]}"
            )
        for metric in self.scores:
            if self.num_samples < metric.min_samples:
                raise ValueError(
                    f"num_samples must be at least {metric.min_samples} for the metric '{metric.name}', "
                    f"got {self.num_samples}"
                )
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if self.extractor not in ("auto", *extractors):
            known = suggestion(self.extractor, ("auto", *extractors)).removesuffix(".")
            raise ValueError(f"extractor must be auto or a feature extractor, got {self.extractor!r}. {known}")

    @property
    def scores(self) -> tuple[SampleMetric, ...]:
        """Metrics of generated samples, in order; the first decides which weights are the best."""
        return tuple(metric for metric in self.metrics if isinstance(metric, SampleMetric))

    @property
    def samplers(self) -> dict[str, Sampler]:
        """Every sampler, by the end of its scores' names: nothing for `sampler`, ``_2step`` for a further one."""
        return {"": self.sampler} | {f"_{one.num_evaluations}step": one for one in self.further_samplers}

    @property
    def score_keys(self) -> dict[str, SampleMetric]:
        """Name of every score without its ``eval/``, and its metric."""
        endings = ("", "_online", *list(self.samplers)[1:])
        return {f"{key}{ending}": metric for metric in self.scores for key in metric.keys for ending in endings}

    @property
    def diagnostics(self) -> tuple[ModelMetric, ...]:
        """Metrics of the networks themselves, in order."""
        return tuple(metric for metric in self.metrics if isinstance(metric, ModelMetric))


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
