"""What an ablation file says: a baseline, what is changed in it, on which seeds, and what counts as no difference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast, get_args

from gcsearch.ablations import Plan
from gcsearch.config import Document, Experiment, build_settings, find_experiment, load_experiment, read_document
from gcsearch.config.documents import describe
from gcsearch.errors import ConfigError, suggestion
from gcsearch.registry import spec
from gcsearch.statistics import Margin
from gcsearch.training.teacher_stage import Tell, TrainedTeacher, prepare_all
from gcsearch.tuning.designs import Arm, Design, Layout, lay_out
from gcsearch.tuning.reading import read_base, read_name, read_resources
from gcsearch.tuning.settings import Objective, Resources
from gcsearch.tuning.winner import factors_to

SECTIONS: Final = (
    "name",
    "experiment",
    "baseline",
    "factors",
    "winner",
    "design",
    "seeds",
    "max_seeds",
    "metric",
    "equivalence",
    "resources",
)

DEFAULT_SEEDS: Final = (0, 1, 2, 3, 4)
DEFAULT_EQUIVALENCE: Final = "1.3%"
"""Gaps of FID below this are within what retraining moves it (arXiv:2606.20536)."""

SEEDS_PER_LOOK: Final = 2
"""Seeds that are added at a time until all is decided: the fewer looks, the less each costs in power."""


@dataclass(frozen=True, kw_only=True)
class AblationSpec:
    """An ablation, validated: every arm has been built once.

    Attributes:
        name: Name, and folder among the studies.
        base: The baseline as a document for messages.
        experiment: The same, built.
        factors: What is changed: as written, or what the winner of a path does otherwise.
        design: How arms are made of factors.
        layout: Arms and contrasts.
        seeds: Seeds that every arm is trained on.
        max_seeds: Seeds at most, for what is undecided after those.
        objective: The score that is judged.
        margin: Differences below this count as none.
        resources: What a training gets.
    """

    name: str
    base: Document
    experiment: Experiment
    factors: dict[str, list[Any]]
    design: Design
    layout: Layout
    seeds: tuple[int, ...]
    max_seeds: int
    objective: Objective
    margin: Margin
    resources: Resources

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Recipes, the reference first."""
        return self.layout.arms

    def plan(self, is_sequential: bool = False) -> Plan:
        """What is trained and judged, of a path the first step; with `is_sequential`, seeds are added for what is open.

        Raises:
            ConfigError: A path was asked to add seeds.
        """
        if is_sequential and self.design == "path":
            raise ConfigError(
                f"ablation '{self.name}': a path judges every step once, so --until-decided means nothing to it. Leave "
                "it out; more `seeds` tell smaller gaps."
            )
        further = range(max(self.seeds) + 1, max(self.seeds) + 1 + self.max_seeds - len(self.seeds))
        looks = [len(self.seeds)]
        if is_sequential:
            looks = list(dict.fromkeys([*range(len(self.seeds), self.max_seeds, SEEDS_PER_LOOK), self.max_seeds]))
        return Plan(
            arms=tuple(arm.name for arm in self.arms),
            contrasts=self.layout.contrasts,
            seeds=(*self.seeds, *further) if is_sequential else self.seeds,
            looks=tuple(looks),
            key=self.objective.key,
            lower_is_better=self.objective.goal == "minimize",
            margin=self.margin,
        )

    def experiment_of(self, arm: Arm, seed: int) -> Experiment:
        """The recipe of an arm, on a seed."""
        return replace(Experiment.from_document(self.base.with_values(dict(arm.values))), seed=seed)

    def prepare(self, tell: Tell = lambda _: None) -> list[TrainedTeacher]:
        """Fetch what trainings need beyond their recipes, and train their teachers, before the first of them starts.

        Args:
            tell: Told in a line what takes long.

        Returns:
            What is on record of each teacher.

        Raises:
            WeightsError: Published weights that a training needs cannot be had.
            TeacherError: The training of a teacher diverged.
        """
        return prepare_all([self.experiment_of(arm, self.seeds[0]) for arm in self.arms], tell)

    def identity(self) -> dict[str, Any]:
        """What may not change between two runs of an ablation."""
        experiment = self.experiment.to_dict()
        del experiment["training"]["num_workers"], experiment["seed"]
        return {
            "experiment": experiment,
            "factors": self.factors,
            "design": self.design,
            "objective": spec(self.objective),
            "equivalence": str(self.margin),
        }

    def opening(self) -> dict[str, Any]:
        """What its ledger begins with, besides where its numbers come from."""
        return {
            "objective": spec(self.objective) | {"key": self.objective.key},
            "keys": list(self.factors),
            "horizon_images": self.experiment.training.num_images,
        }

    def to_dict(self) -> dict[str, Any]:
        """All of the ablation as plain data."""
        return {
            "name": self.name,
            **self.identity(),
            "seeds": list(self.seeds),
            "max_seeds": self.max_seeds,
            "resources": spec(self.resources),
        }


def load_ablation(
    path: Path,
    *,
    experiment: str | None = None,
    name: str | None = None,
    assignments: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> AblationSpec:
    """Read and validate an ablation file.

    Args:
        path: The file.
        experiment: Runs the ablation on another experiment than the file names.
        name: Replaces the ablation's name.
        assignments: ``key=value`` overrides of the experiment, before those of `baseline`.
        imports: Modules to import besides those that the experiment names.

    Raises:
        ConfigError: Anything that is wrong, with file and line.
    """
    document = read_document(path)
    for key in document.data:
        if key not in SECTIONS:
            hint = " A study with a space is run by `gcsearch run`." if key == "space" else ""
            raise ConfigError(
                f"{document.where((key,))}: an ablation has no key '{key}'.{hint} {suggestion(key, SECTIONS)}"
            )
    needed = "winner" if "winner" in document.data else "factors"
    for required in ("experiment", needed):
        if required not in document.data and not (required == "experiment" and experiment):
            raise ConfigError(f"{document.source}: an ablation must have the key '{required}', which is missing.")
    design = _design(document)
    base = _with_baseline(document, read_base(document, path, experiment, assignments, imports))
    resources, base, built = read_resources(document, base)
    if needed == "winner":
        winner = _winner(document, path, imports)
        base = base.with_imports(winner.imports)
        factors = factors_to(winner, built, document.where(("winner",)))
    else:
        factors = _factors(document)
    try:
        layout = lay_out(design, factors)
    except ValueError as error:
        raise ConfigError(f"{document.where(('design',))}: {error}.") from None
    seeds = _seeds(document)
    if design == "path" and "max_seeds" in document.data:
        raise ConfigError(
            f"{document.where(('max_seeds',))}: a path judges every step once, on as many seeds as `seeds` has. Leave "
            "max_seeds out."
        )
    most = document.data.get("max_seeds", 2 * len(seeds))
    if isinstance(most, bool) or not isinstance(most, int) or most < len(seeds):
        raise ConfigError(
            f"{document.where(('max_seeds',))}: max_seeds must be an integer of at least the {len(seeds)} seeds, got "
            f"{describe(most)}."
        )
    ablation = AblationSpec(
        name=read_name(document, path, name),
        base=base,
        experiment=built,
        factors=factors,
        design=design,
        layout=layout,
        seeds=seeds,
        max_seeds=most,
        objective=_objective(document, built),
        margin=_margin(document),
        resources=resources,
    )
    _check_arms(ablation, document)
    if design == "path":
        everything = {key: values[0] for key, values in factors.items()}
        Experiment.from_document(base.with_values(everything, document.where(("factors",))))
    return ablation


def _with_baseline(document: Document, base: Document) -> Document:
    """The experiment with the overrides that make the baseline."""
    overrides = document.data.get("baseline") or {}
    if not isinstance(overrides, dict):
        raise ConfigError(
            f"{document.where(('baseline',))}: baseline must be a mapping of experiment keys to values, got "
            f"{describe(overrides)}."
        )
    for key, value in overrides.items():
        base = base.with_values({key: value}, document.where(("baseline", key)))
    return base


def _design(document: Document) -> Design:
    design = document.data.get("design", "one_factor")
    if design not in get_args(Design):
        raise ConfigError(
            f"{document.where(('design',))}: design must be one of {', '.join(get_args(Design))}, got "
            f"{describe(design)}. {suggestion(str(design), get_args(Design))}"
        )
    if "winner" in document.data and ("factors" in document.data or design != "path"):
        raise ConfigError(
            f"{document.where(('winner',))}: winner must stand for the factors of design path: what it does otherwise "
            "than the baseline. Remove it, or write design: path and no factors."
        )
    return cast(Design, design)


def _winner(document: Document, path: Path, imports: Sequence[str]) -> Experiment:
    wanted, place = document.data["winner"], document.where(("winner",))
    if not isinstance(wanted, str):
        raise ConfigError(f"{place}: winner must be an experiment's name or path, got {describe(wanted)}.")
    try:
        return load_experiment(find_experiment(wanted, beside=path), imports=imports)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _factors(document: Document) -> dict[str, list[Any]]:
    factors = document.data["factors"]
    if not isinstance(factors, dict) or not factors:
        raise ConfigError(
            f"{document.where(('factors',))}: factors must be a mapping of experiment keys to lists of values, and not "
            "empty. For example coupling: [independent, ot]."
        )
    for key, values in factors.items():
        place = document.where(("factors", key))
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{place}: factors.{key} must be a list of values, got {describe(values)}.")
        if key == "seed" or key.endswith(".seed"):
            raise ConfigError(f"{place}: factors.{key} must not be changed: every arm is trained on all of `seeds`.")
        if key.split(".")[0] in ("evaluation", "data", "name") or key == "training.num_images":
            raise ConfigError(
                f"{place}: factors.{key} must not be changed: arms that differ in it cannot be compared. Set it with "
                f"--set {key}=... for the whole ablation."
            )
        if key == "training.num_workers":
            raise ConfigError(f"{place}: factors.{key} must not be changed: it changes no score.")
    return factors


def _seeds(document: Document) -> tuple[int, ...]:
    seeds = document.data.get("seeds", list(DEFAULT_SEEDS))
    is_list = isinstance(seeds, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in seeds)
    if not is_list or len(set(seeds)) != len(seeds) or len(seeds) < 2 or min(seeds) < 0:
        raise ConfigError(
            f"{document.where(('seeds',))}: seeds must be a list of at least two different integers >= 0, got "
            f"{describe(seeds)}. Five tell 3 % apart, eight 2 %."
        )
    return tuple(seeds)


def _objective(document: Document, experiment: Experiment) -> Objective:
    metric = document.data.get("metric", "fid")
    keys = experiment.evaluation.score_keys
    goals = {
        key: "minimize" if one.lower_is_better else "maximize"
        for key, one in keys.items()
        if not key.endswith("_online")
    }
    if metric not in goals:
        raise ConfigError(
            f"{document.where(('metric',))}: metric must be a score that the experiment computes, got "
            f"{describe(metric)}. {suggestion(str(metric), goals)}"
        )
    return build_settings(Objective, {"metric": metric, "goal": goals[metric]}, document, ("metric",))


def _margin(document: Document) -> Margin:
    """``1.3%`` of the reference's mean, or a number in the unit of the score."""
    text = document.data.get("equivalence", DEFAULT_EQUIVALENCE)
    place = document.where(("equivalence",))
    found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(%?)\s*", str(text))
    try:
        if found is None:
            raise ValueError(f"equivalence must be a share as 1.3% or a number, got {describe(text)}")
        value = float(found[1])
        return Margin(value=value / 100 if found[2] else value, is_relative=bool(found[2]))
    except ValueError as error:
        raise ConfigError(f"{place}: {error}.") from None


def _check_arms(ablation: AblationSpec, document: Document) -> None:
    """Every arm must build, and differ from every other."""
    recipes: dict[str, str] = {}
    is_written = "factors" in document.data
    places = {key: document.where(("factors", key) if is_written else ("winner",)) for key in ablation.factors}
    base = ablation.base
    for arm in ablation.arms:
        filled = base
        for key, value in arm.values.items():
            filled = filled.with_values({key: value}, places[key])
        recipe = Experiment.from_document(filled).recipe_fingerprint
        if recipe in recipes:
            place = next((places[key] for key in arm.values), document.source)
            raise ConfigError(
                f"{place}: arm '{arm.name}' must differ from arm '{recipes[recipe]}', but is the same recipe. Remove "
                "the value."
            )
        recipes[recipe] = arm.name
