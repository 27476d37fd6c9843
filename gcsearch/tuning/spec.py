"""What a study file says: the experiment, what to vary, how to judge, how much to spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gcsearch.config import Document, Experiment, build, build_settings, read_document
from gcsearch.config.documents import describe
from gcsearch.errors import ConfigError, suggestion
from gcsearch.registry import spec
from gcsearch.training.teacher_stage import Tell, TrainedTeacher, prepare_all
from gcsearch.tuning.engine import Engine
from gcsearch.tuning.objectives import check_objectives
from gcsearch.tuning.reading import read_base, read_name, read_resources
from gcsearch.tuning.samplers import Recorder, check_sampler
from gcsearch.tuning.settings import Budget, Finalists, Objective, Resources, Search
from gcsearch.tuning.settling import Settling
from gcsearch.tuning.space import FixedChooser, Params, Range, Space, label_of, lookup, parameter_key
from gcsearch.tuning.space_parser import parse_space
from gcsearch.tuning.stopping import NoStopping, RungRule, Stopping


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study, validated: every value that its space can take has been built once.

    Attributes:
        name: Name of the study.
        base: The experiment before anything is varied, as a document for messages.
        experiment: The same, built.
        objectives: What is minimised or maximised; trials are listed by the first.
        space: What is varied.
        space_data: The space as written, to store and to compare.
        finalists: Which recipes are trained again on fresh seeds; None trains none.
    """

    name: str
    base: Document
    experiment: Experiment
    objectives: tuple[Objective, ...]
    budget: Budget
    space: Space
    space_data: dict[str, Any]
    search: Search
    stopping: Stopping
    resources: Resources
    finalists: Finalists | None = None

    @property
    def objective(self) -> Objective:
        """The first objective."""
        return self.objectives[0]

    @property
    def within(self) -> str | None:
        """Key inside which trials are compared, with ``auto`` resolved."""
        return resolve_within(self.stopping, self.space)

    def engine(self) -> Engine:
        """What decides for this study."""
        return Engine(
            space=self.space,
            base=self.base,
            sampler=self.search.sampler,
            seed=self.search.seed,
            start_from=self.search.start_from,
            stopping=self.stopping,
            within=self.within,
            objectives=self.objectives,
            rungs=tuple(self.experiment.rungs),
            max_trials=self.budget.trials,
            is_settling=Settling(self.stopping),
        )

    def experiment_of(self, params: Params) -> Experiment:
        """Experiment of a trial's parameters."""
        return Experiment.from_document(self.space.draw(FixedChooser(params), self.base)[1])

    def recipes(self) -> list[Experiment]:
        """One recipe for every combination of the space's options: what a trial may need is what one of them needs."""
        return [self.experiment_of(values) for values in self.space.variations(self.base)]

    def prepare(self, tell: Tell = lambda _: None) -> list[TrainedTeacher]:
        """Fetch what the trials need beyond their recipes, and train their teachers, before the first of them starts.

        Args:
            tell: Told in a line what takes long.

        Returns:
            What is on record of each teacher.

        Raises:
            WeightsError: Published weights that a trial needs cannot be had.
            TeacherError: The training of a teacher diverged.
        """
        return prepare_all(self.recipes(), tell)

    def identity(self) -> dict[str, Any]:
        """What may not change between two runs of a study: experiment, space, objective, stopping rule."""
        experiment = self.experiment.to_dict()
        del experiment["training"]["num_workers"]  # how trials are run, which `resources` says
        return {
            "experiment": experiment,
            "space": self.space_data,
            "objective": spec(self.objective) if len(self.objectives) == 1 else [spec(one) for one in self.objectives],
            "stopping": spec(self.stopping),
        }

    def opening(self) -> dict[str, Any]:
        """What its ledger begins with, besides where its numbers come from."""
        return {
            **recorded_objectives(self.objectives),
            "keys": [entry.key for entry in self.space.entries],
            "horizon_images": self.experiment.training.num_images,
            "trials": self.budget.trials,
            "budget": spec(self.budget),
            "stopping": spec(self.stopping),
            "stopping_rungs": list(self.stopping.rungs(self.experiment.training.num_images)),
            "within": self.within,
        }

    def to_dict(self) -> dict[str, Any]:
        """All of the study as plain data."""
        return {
            "name": self.name,
            **self.identity(),
            "budget": spec(self.budget),
            "search": spec(self.search),
            **({} if self.finalists is None else {"finalists": spec(self.finalists)}),
            "resources": spec(self.resources),
        }


def recorded_objectives(objectives: Sequence[Objective]) -> dict[str, Any]:
    """Objectives as a ledger has them: ``objective`` is the first; of several, ``objectives`` are all."""
    recorded = [spec(one) | {"key": one.key} for one in objectives]
    return {"objective": recorded[0]} | ({"objectives": recorded} if len(recorded) > 1 else {})


def resolve_within(stopping: Stopping, space: Space) -> str | None:
    """Key inside which a rule compares trials; None compares all."""
    if not isinstance(stopping, RungRule) or stopping.within == "none":
        return None
    if stopping.within == "auto":
        return "timesteps" if space.has("timesteps") else None
    return stopping.within


SECTIONS = ("name", "experiment", "objective", "budget", "space", "search", "stopping", "finalists", "resources")


def load_study(
    path: Path,
    *,
    experiment: str | None = None,
    name: str | None = None,
    trials: int | None = None,
    assignments: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> StudySpec:
    """Read and validate a study file.

    Args:
        path: The file.
        experiment: Runs the study on another experiment than the file names.
        name: Replaces the study's name.
        trials: Replaces `budget.trials`.
        assignments: ``key=value`` overrides of the experiment.
        imports: Modules to import besides those that the experiment names.

    Raises:
        ConfigError: Anything that is wrong, with file and line.
    """
    document = read_document(path)
    for key in document.data:
        if key not in SECTIONS:
            raise ConfigError(f"{document.where((key,))}: a study has no key '{key}'. {suggestion(key, SECTIONS)}")
    for required in ("experiment", "space"):
        if required not in document.data and not (required == "experiment" and experiment):
            raise ConfigError(f"{document.source}: a study must have the key '{required}', which is missing.")

    base = read_base(document, path, experiment, assignments, imports)
    resources, base, built = read_resources(document, base)
    study_name = read_name(document, path, name)
    sections = {"budget": Budget, "search": Search}
    settings: dict[str, Any] = {
        key: build_settings(cls, document.data.get(key, {}), document, (key,)) for key, cls in sections.items()
    }
    if trials is not None:
        settings["budget"] = build_settings(
            Budget, {**spec(settings["budget"]), "trials": trials}, Document({}, "--trials"), ("budget",)
        )
    objectives = _objectives(document)
    stopping: Stopping = NoStopping()
    if "stopping" in document.data:
        section = document.data["stopping"]
        stopping = build("stopping", section, document, ("stopping",))
        if isinstance(stopping, RungRule) and "min_images" not in (section if isinstance(section, dict) else {}):
            stopping = replace(stopping, min_images=built.evaluation.every_images)

    finalists = None
    if "finalists" in document.data:
        finalists = build_settings(Finalists, document.data["finalists"], document, ("finalists",))

    space = parse_space(document.data["space"], document)
    space = space.with_real(_validated(space, base))
    study = StudySpec(
        name=study_name,
        base=base,
        experiment=built,
        objectives=objectives,
        space=space,
        space_data=document.data["space"],
        stopping=stopping,
        resources=resources,
        finalists=finalists,
        **settings,
    )
    _check(study, document)
    return study


def _objectives(document: Document) -> tuple[Objective, ...]:
    """The section `objective`: one, or a list of several."""
    section = document.data.get("objective", {})
    if not isinstance(section, list):
        return (build_settings(Objective, section, document, ("objective",)),)
    if len(section) < 2:
        raise ConfigError(
            f"{document.where(('objective',))}: objective must be one mapping, or a list of at least two, got a list "
            f"of {len(section)}."
        )
    return tuple(build_settings(Objective, one, document, ("objective", index)) for index, one in enumerate(section))


def _validated(space: Space, base: Document) -> frozenset[str]:
    """Build every variation once; names of the ranges whose field is a real number."""
    real = set()
    for values in space.variations(base):
        recorder = Recorder(FixedChooser(values))
        _, document = space.draw(recorder, base)
        config = Experiment.from_document(document).to_dict()
        names: dict[str, str] = {}
        for name, (_, node) in recorder.drawn.items():
            key = parameter_key(name)
            if key in names:
                raise ConfigError(
                    f"{space.place(key)}: space: {key} must be varied in one place, it is varied twice. Remove it "
                    "here, or from the options of the component."
                )
            names[key] = name
            if not isinstance(node, Range):
                continue
            if isinstance(lookup(config, key), float):
                real.add(name)
            elif not node.is_integer:
                raise ConfigError(
                    f"{space.place(key)}: space: {key} must be an integer, so min and max must be written as integers, "
                    f"got {node.low} and {node.high}."
                )
    return frozenset(real)


def _check(study: StudySpec, document: Document) -> None:
    """What only holds, or fails, between sections."""
    experiment = study.experiment
    check_objectives(study.objectives, experiment, document)

    if study.finalists is not None and experiment.seed in study.finalists.seeds:
        raise ConfigError(
            f"{document.where(('finalists', 'seeds'))}: finalists.seeds must not contain the seed of the experiment, "
            f"on which the search chooses, got {list(study.finalists.seeds)} and seed {experiment.seed}."
        )

    horizon, every = experiment.training.num_images, experiment.evaluation.every_images
    if isinstance(study.stopping, RungRule):
        first = study.stopping.min_images
        if first % every:
            nearest = max(every, round(first / every) * every)
            raise ConfigError(
                f"{document.where(('stopping', 'min_images'))}: stopping.min_images must be a multiple of "
                f"evaluation.every_images = {every}, got {first}. Use {nearest}, for example."
            )
        if first >= horizon:
            raise ConfigError(
                f"{document.where(('stopping', 'min_images'))}: stopping.min_images must be less than "
                f"training.num_images = {horizon}, got {first}."
            )
        within = study.stopping.within
        if within not in ("auto", "none") and not study.space.has(within):
            raise ConfigError(
                f"{document.where(('stopping', 'within'))}: stopping.within must be a key of the space, auto or none, "
                f"got '{within}'. {suggestion(within, [entry.key for entry in study.space.entries])}"
            )
    try:
        check_sampler(study.search.sampler, study.space, study.base, len(study.objectives))
    except ValueError as error:
        raise ConfigError(f"{document.where(('search', 'sampler'))}: search.{error}") from None
    for index, params in enumerate(study.search.start_from):
        _check_start(study, params, document, index)


def _check_start(study: StudySpec, params: Params, document: Document, index: int) -> None:
    """Every given parameter must exist, and the trial must build."""
    at = ("search", "start_from", index)
    recorder = Recorder(FixedChooser(params))
    try:
        drawn, _ = study.space.draw(recorder, study.base)
    except ConfigError as error:
        raise ConfigError(f"{document.where(at)}: search.start_from: {error}") from None
    for key, value in params.items():
        place = document.where((*at, key))
        if key not in drawn:
            raise ConfigError(
                f"{place}: search.start_from has '{key}', which this trial does not have. {suggestion(key, drawn)}"
            )
        if drawn[key] != label_of(value):
            raise ConfigError(f"{place}: search.start_from: {key} must be a value of the space, got {describe(value)}.")
        node = next(node for name, (_, node) in recorder.drawn.items() if parameter_key(name) == key)
        if isinstance(node, Range) and not node.low <= value <= node.high:
            raise ConfigError(f"{place}: search.start_from: {key} must be in [{node.low}, {node.high}], got {value}.")
    study.experiment_of(params)
