"""Optuna's samplers, fed afresh from the observations for every suggestion.

They are given what Ray Tune's `OptunaSearch` gives them: a trial that was stopped early counts as finished, with its
last score. That makes them the stock combination that a search engine has to beat; `auto` does not do it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

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
    """Optuna's tree-structured Parzen estimator, told the last score of every trial.

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
                seed=_seed(history), n_startup_trials=0, multivariate=True, group=True, constant_liar=True
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
            sampler = optuna.samplers.GPSampler(seed=_seed(history), n_startup_trials=0)
        return OptunaChooser(_ask(sampler, history))


def last_score(observation: Observation) -> float | None:
    """Score at the highest rung that is known; None without one."""
    return observation.scores[max(observation.scores)] if observation.scores else None


def _num_told(history: History) -> int:
    return sum(bool(one.scores) and not one.is_running for one in history.observations)


def _seed(history: History) -> int:
    return int(np.random.SeedSequence([history.seed, history.number, 2]).generate_state(1)[0])


def _ask(sampler: Any, history: History) -> Any:
    """A new trial of an Optuna study that knows the observations."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for observation in history.observations:
        score = last_score(observation)
        if observation.is_running:
            study.add_trial(_frozen(observation.drawn, None))
        elif score is not None:
            study.add_trial(_frozen(observation.drawn, min(max(score, -DIVERGED), DIVERGED)))
    return study.ask()


def _frozen(drawn: Drawn, value: float | None) -> Any:
    """A finished or running Optuna trial with the given parameters."""
    import optuna

    states = optuna.trial.TrialState
    return optuna.trial.create_trial(
        params={name: chosen for name, (chosen, _) in drawn.items()},
        distributions={name: _distribution(node) for name, (_, node) in drawn.items()},
        value=value,
        state=states.RUNNING if value is None else states.COMPLETE,
    )


def _distribution(node: Node) -> Any:
    from optuna import distributions

    if isinstance(node, Choice):
        return distributions.CategoricalDistribution([option.label for option in node.options])
    if node.is_integer:
        return distributions.IntDistribution(int(node.low), int(node.high), log=node.is_log)
    return distributions.FloatDistribution(node.low, node.high, log=node.is_log)
