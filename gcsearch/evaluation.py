"""Scores of a trained model, or of anybody's images: what `gcsearch evaluate` runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gcsearch.config import Experiment, build
from gcsearch.config.documents import parse_assignment
from gcsearch.data import Dataset, Examples
from gcsearch.errors import ConfigError
from gcsearch.export import RECIPE, WEIGHTS, load_model, steps_sampler
from gcsearch.files import default_cache_dir
from gcsearch.metrics.base import SampleMetric
from gcsearch.metrics.bootstrap import Interval
from gcsearch.metrics.evaluate import Evaluator, piece_size
from gcsearch.metrics.features import Extractor
from gcsearch.metrics.fid import FID
from gcsearch.metrics.image_folder import read_images
from gcsearch.metrics.inception import InceptionExtractor
from gcsearch.metrics.kid import KID
from gcsearch.metrics.parallel import evaluate_in_processes, extract_in_processes
from gcsearch.metrics.reference import ReferenceFeatures, reference_features
from gcsearch.metrics.scoring import Scorer, check_metric
from gcsearch.science.preconditioning import ConsistencyFunction

DEFAULT_METRICS = (FID(), KID())
"""Of a folder; a model is scored by its experiment's."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to score, and how. None means what the model's experiment says.

    Attributes:
        path: Folder of an export, checkpoint file, or folder of images.
        data: Data set, by name or as YAML, e.g. ``{name: folder, path: ...}``.
        metrics: Names of metrics.
        num: Samples; of a folder, images chosen at random, by default all.
        steps: Network evaluations per sample.
        extractor: Name of the extractor, or ``auto`` for the data set's own.
        inception_weights: File for the extractor ``inception``.
        num_resamples: Of the bootstrap; 0 for no intervals.
        seed: Of the latents, of the choice of images, and of the bootstrap.
        num_workers: Processes.
        device: ``cpu`` or ``cuda``.
    """

    path: Path
    data: str | None = None
    metrics: Sequence[str] | None = None
    num: int | None = None
    steps: int | None = None
    extractor: str | None = None
    inception_weights: Path | None = None
    num_resamples: int = 200
    seed: int | None = None
    num_workers: int = 1
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Scores and what they mean.

    Attributes:
        kind: ``model`` or ``images``.
        data: Name of the data set.
        extractor: Name of the extractor, under which scores are to be quoted.
        num_samples: Samples scored.
        seed: Of latents, choice and bootstrap.
        scores: Value under every key; NaN if the network's output was not finite.
        intervals: 95 % interval of the keys that have one.
        identities: Identity of every key.
        lower_is_better: Direction of every key.
        collapsed: Whether all samples are nearly the same.
    """

    kind: str
    data: str
    extractor: str
    num_samples: int
    seed: int
    scores: dict[str, float]
    intervals: dict[str, Interval]
    identities: dict[str, str]
    lower_is_better: dict[str, bool]
    collapsed: bool


def evaluate(request: Request, on_stage: Callable[[str], None] = lambda _: None) -> Report:
    """Score a model or a folder of images.

    On a CPU, every process uses one thread, as trials do by default: a checkpoint gets the very number that its
    training recorded.

    Args:
        request: What and how.
        on_stage: Told what is being computed, before each part.

    Raises:
        GCSearchError: The request means nothing, or something it names is missing or damaged.
    """
    check_request(request)
    if request.device == "cpu":
        torch.set_num_threads(1)
    return (_evaluate_images if holds_images(request.path) else _evaluate_model)(request, on_stage)


def holds_images(path: Path) -> bool:
    """Whether a path is a folder that is no export."""
    return path.is_dir() and not ((path / RECIPE).is_file() or (path / WEIGHTS).is_file())


@contextmanager
def _mistakes_in(path: Path) -> Iterator[None]:
    """What components refuse is the user's to change: one line that names the path."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}.") from None


def check_request(request: Request) -> None:
    """Nothing, if numbers and path can be used at all."""
    if not request.path.exists():
        raise ConfigError(f"{request.path}: there is no such folder or file. Name an export, a checkpoint, or images.")
    if request.num_workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {request.num_workers}.")
    if request.num_resamples == 1 or request.num_resamples < 0:
        raise ConfigError(f"--bootstrap must be 0 (none) or at least 2, got {request.num_resamples}.")


def load_protocol(
    request: Request, on_stage: Callable[[str], None]
) -> tuple[Experiment, ConsistencyFunction, Evaluator]:
    """A model's recipe, its function on the device, and the protocol of its scores."""
    model = load_model(request.path)
    experiment = model.experiment
    evaluation = experiment.evaluation
    data = experiment.data if request.data is None else _dataset(request.data)
    if data.event_shape != experiment.data.event_shape:
        raise ConfigError(
            f"--data {request.data}: examples must have the model's shape {list(experiment.data.event_shape)}, got "
            f"{list(data.event_shape)}."
        )
    examples, scorer = _scorer(request, data, experiment, on_stage)
    function = model.function
    function.network.to(request.device)
    with _mistakes_in(request.path):
        evaluator = Evaluator(
            metrics=scorer.metrics,
            extractor=scorer.extractor,
            sampler=evaluation.sampler if request.steps is None else steps_sampler(experiment, request.steps),
            num_samples=evaluation.num_samples if request.num is None else request.num,
            seed=evaluation.seed if request.seed is None else request.seed,
            source=experiment.data.draw_source,
            reference=scorer.reference,
            reference_name=scorer.reference_name,
            is_image=examples.is_image,
            device=request.device,
            batch_size=piece_size(experiment.training.batch_size),  # as in the training, to the same bits
        )
    return experiment, function, evaluator


def _evaluate_model(request: Request, on_stage: Callable[[str], None]) -> Report:
    _, function, evaluator = load_protocol(request, on_stage)
    on_stage(f"samples: {evaluator.num_samples:,}, {evaluator.sampler.num_evaluations} network evaluation(s) each")
    result = evaluate_in_processes(evaluator, function, request.num_workers)
    return _report(
        request,
        evaluator.scorer,
        kind="model",
        seed=evaluator.seed,
        features=result.features,
        scores=result.scores,
        identities=evaluator.identities,
        collapsed=result.collapsed,
        on_stage=on_stage,
    )


def _evaluate_images(request: Request, on_stage: Callable[[str], None]) -> Report:
    if request.data is None:
        raise ConfigError(f"{request.path}: a folder of images needs --data, the data set to compare it with.")
    if request.steps is not None:
        raise ConfigError("--steps: only a model takes steps; images are there already. Leave it out.")
    data = _dataset(request.data)
    if len(data.event_shape) != 3:
        raise ConfigError(f"--data {request.data}: must be a data set of images, but its examples are points.")
    seed = 0 if request.seed is None else request.seed
    images = read_images(request.path, data.event_shape, request.num, seed)
    examples, scorer = _scorer(request, data, None, on_stage)
    del examples
    if len(images) < scorer.min_samples:
        raise ConfigError(f"{request.path}: must hold at least {scorer.min_samples} images, got {len(images)}.")
    on_stage(f"features: {len(images):,} images")
    features = extract_in_processes(scorer.extractor, images, request.device, request.num_workers)
    return _report(
        request,
        scorer,
        kind="images",
        seed=seed,
        features=features,
        scores=None,
        # Nobody knows how a stranger's images were drawn and rounded.
        identities=scorer.identities(num_samples=len(images), sampler="unknown", quantisation="stored_uint8"),
        collapsed=False,
        on_stage=on_stage,
    )


def _scorer(
    request: Request, data: Dataset, experiment: Experiment | None, on_stage: Callable[[str], None]
) -> tuple[Examples, Scorer]:
    """The data and what scores against them. Everything that can be refused is refused before anything is loaded."""
    extractor = _extractor(request, data, experiment)
    metrics = _metrics(request, experiment)
    with _mistakes_in(request.path):
        extractor.accepts(data.event_shape)
        for metric in metrics:
            check_metric(metric, extractor)
    extractor.prepare()
    examples = data.load()
    on_stage(f"reference: {len(examples):,} examples of '{data.name}' (kept for the next time)")
    reference: ReferenceFeatures = reference_features(
        extractor,
        examples.values,
        examples.sha256,
        request.device,
        default_cache_dir(),
        extract_all=partial(extract_in_processes, extractor, device=request.device, num_workers=request.num_workers),
    )
    with _mistakes_in(request.path):
        scorer = Scorer(metrics=metrics, extractor=extractor, reference=reference, reference_name=data.name)
    return examples, scorer


def _dataset(text: str) -> Dataset:
    dataset: Dataset = build("data", parse_assignment(f"data={text}")[1])
    return dataset


def _metrics(request: Request, experiment: Experiment | None) -> tuple[SampleMetric, ...]:
    """Metrics asked for, with the settings that the experiment gives them."""
    known = DEFAULT_METRICS if experiment is None else experiment.evaluation.scores
    if request.metrics is None:
        return known
    settings = {metric.name: metric for metric in known}
    chosen = [settings[name] if name in settings else build("metric", name) for name in request.metrics]
    for metric in chosen:
        if not isinstance(metric, SampleMetric):
            raise ConfigError(
                f"--metrics {metric.name}: must be scores of samples, but this describes a training. Leave it out."
            )
    return tuple(chosen)


def _extractor(request: Request, data: Dataset, experiment: Experiment | None) -> Extractor:
    name = request.extractor
    if name is None and experiment is not None and request.data is None:
        extractor = experiment.extractor
    else:
        extractor = build("extractor", data.default_extractor if name in (None, "auto") else name)
    if request.inception_weights is None:
        return extractor
    if not isinstance(extractor, InceptionExtractor):
        raise ConfigError(
            f"--inception-weights: the extractor must be 'inception', but it is '{extractor.name}'. Leave it out."
        )
    return dataclasses.replace(extractor, weights=str(request.inception_weights))


def _report(
    request: Request,
    scorer: Scorer,
    *,
    kind: str,
    seed: int,
    features: Tensor,
    scores: dict[str, float] | None,
    identities: dict[str, str],
    collapsed: bool,
    on_stage: Callable[[str], None],
) -> Report:
    if request.device == "cpu":
        torch.set_num_threads(request.num_workers)  # the other processes are done
    scores = scorer.scores(features) if scores is None else scores
    intervals = {}
    if request.num_resamples:
        on_stage(f"intervals: {request.num_resamples} resamples (--bootstrap 0 leaves them out)")
        intervals = scorer.intervals(scores, features, num_resamples=request.num_resamples, seed=seed)
    return Report(
        kind=kind,
        data=scorer.reference_name,
        extractor=scorer.extractor.name,
        num_samples=len(features),
        seed=seed,
        scores=scores,
        intervals=intervals,
        identities=identities,
        lower_is_better={key: metric.lower_is_better for metric in scorer.metrics for key in metric.keys},
        collapsed=collapsed,
    )
