"""Optuna's samplers, fed afresh from the observations for every suggestion.

They are given what Ray Tune's `OptunaSearch` gives them: a trial that was stopped early counts as finished, with its
last score. That makes them the stock combination that a search engine has to beat; `auto` does not do it. Several
objectives have no such tradition: then a trial that went further counts as better, and ranks stand for scores (see
`standings`), or a cost would be lowest for those that were stopped first.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gcsearch.config import Document
from gcsearch.tuning.samplers.base import (
    Drawn,
    History,
    Observation,
    RandomChooser,
    SearchSampler,
    is_conditional,
    search_samplers,
)
from gcsearch.tuning.space import Choice, Chooser, Node, Range, Space

DIVERGED = 1e12
"""Optuna's Gaussian process takes no infinite score."""


class OptunaChooser:
    """Choices of an Optuna trial, under the nodes' unique names."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def number(self, name: str, node: Range) -> float:
        if node.is_integer:
            return int(self.trial.suggest_int(name, int(node.low), int(node.high), log=node.is_log))
        return float(self.trial.suggest_float(name, node.low, node.high, log=node.is_log))

    def option(self, name: str, node: Choice) -> Any:
        return self.trial.suggest_categorical(name, [option.label for option in node.options])


@search_samplers.register("tpe")
@dataclass(frozen=True, kw_only=True)
class TPESampler(SearchSampler):
    """Optuna's tree-structured Parzen estimator, told the last score of every trial; for one or more objectives.

    Attributes:
        startup_trials: Random trials before the model.

    Source: Bergstra et al. 2011; Watanabe 2023 (arXiv:2304.11127).
    """

    startup_trials: int = 10

    def __post_init__(self) -> None:
        if self.startup_trials < 1:
            raise ValueError(f"startup_trials must be at least 1, got {self.startup_trials}")

    def chooser(self, history: History) -> Chooser:
        import optuna

        if _num_told(history) < self.startup_trials:
            return RandomChooser(history.seed, history.number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=optuna_seed(history), n_startup_trials=0, multivariate=True, group=True, constant_liar=True
            )
        return OptunaChooser(_ask(sampler, history))


@search_samplers.register("gp")
@dataclass(frozen=True, kw_only=True)
class GPSampler(SearchSampler):
    """Optuna's Gaussian process with expected improvement, told the last score of every trial.

    For few, expensive, full-length trials. A model of one fixed set of parameters: a space in which some exist only
    sometimes is refused.

    Attributes:
        startup_trials: Random trials before the model.
    """

    max_objectives: ClassVar[float] = 1

    startup_trials: int = 10

    def __post_init__(self) -> None:
        if self.startup_trials < 1:
            raise ValueError(f"startup_trials must be at least 1, got {self.startup_trials}")

    def check(self, space: Space, base: Document) -> None:
        if is_conditional(space):
            raise ValueError("sampler gp needs parameters that always exist, and some depend on others. Use auto.")

    def chooser(self, history: History) -> Chooser:
        import optuna

        if _num_told(history) < self.startup_trials:
            return RandomChooser(history.seed, history.number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.GPSampler(seed=optuna_seed(history), n_startup_trials=0)
        return OptunaChooser(_ask(sampler, history))


def last_score(observation: Observation) -> float | None:
    """Score at the highest rung that is known; None without one."""
    return observation.scores[max(observation.scores)] if observation.scores else None


def _num_told(history: History) -> int:
    return sum(bool(one.scores) and not one.is_running for one in history.observations)


def standings(history: History) -> list[tuple[float, ...] | None]:
    """How each trial stands in every objective, lower is better; None for one that runs or has no score.

    A trial has its rank among those whose highest rung is the same; those of a lower rung come behind, and those that
    diverged behind all. So a trial dominates another of its rung exactly if its scores do, and all of lower ones.
    """
    at: dict[int, list[int]] = {}
    found: list[tuple[float, ...] | None] = [None] * len(history.observations)
    for index, one in enumerate(history.observations):
        if not one.scores or one.is_running:
            continue
        if math.isfinite(one.scores[max(one.scores)]):
            at.setdefault(max(one.scores), []).append(index)
        else:
            found[index] = (worst_standing(history),) * history.num_objectives
    for rung, members in at.items():
        behind = len(history.observations) * sum(later > rung for later in history.rungs)
        observations = [history.observations[index] for index in members]
        losses = np.array([one.losses.get(rung, (one.scores[rung],)) for one in observations], dtype=np.float64)
        ranks = [behind + np.unique(column, return_inverse=True)[1].reshape(-1) for column in losses.T]
        for place, index in enumerate(members):
            found[index] = tuple(float(rank[place]) for rank in ranks)
    return found


def worst_standing(history: History) -> float:
    """Behind all that `standings` gives to a trial with a score."""
    return float(len(history.observations) * (1 + len(history.rungs)))


def optuna_seed(history: History) -> int:
    """Seed of whatever suggests this trial."""
    return int(np.random.SeedSequence([history.seed, history.number, 2]).generate_state(1)[0])


def _ask(sampler: Any, history: History) -> Any:
    """A new trial of an Optuna study that knows the observations."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * history.num_objectives, sampler=sampler)
    states = optuna.trial.TrialState
    for observation, values in zip(history.observations, _told(history), strict=True):
        if observation.is_running:
            study.add_trial(frozen_trial(observation.drawn, None, states.RUNNING))
        elif values is not None:
            study.add_trial(frozen_trial(observation.drawn, values, states.COMPLETE))
    return study.ask()


def _told(history: History) -> list[tuple[float, ...] | None]:
    """What a trial is said to have scored: its last score, or of several objectives how it stands."""
    if history.num_objectives > 1:
        return standings(history)
    scores = [last_score(observation) for observation in history.observations]
    return [None if score is None else (min(max(score, -DIVERGED), DIVERGED),) for score in scores]


def frozen_trial(drawn: Drawn, values: tuple[float, ...] | None, state: Any) -> Any:
    """An Optuna trial with the given parameters.

    Args:
        drawn: Value and node of each choice.
        values: Its objectives, if it is complete.
        state: An Optuna `TrialState`.
    """
    import optuna

    return optuna.trial.create_trial(
        params={name: chosen for name, (chosen, _) in drawn.items()},
        distributions={name: _distribution(node) for name, (_, node) in drawn.items()},
        values=values,
        state=state,
    )


def _distribution(node: Node) -> Any:
    from optuna import distributions

    if isinstance(node, Choice):
        return distributions.CategoricalDistribution([option.label for option in node.options])
    if node.is_integer:
        return distributions.IntDistribution(int(node.low), int(node.high), log=node.is_log)
    return distributions.FloatDistribution(node.low, node.high, log=node.is_log)
