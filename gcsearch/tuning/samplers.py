"""Samplers: which parameters to try next, as a pure function of what is known.

A suggestion depends on (space, seed, trial number, observations) only, so the sampler is rebuilt from the ledger at any
time and nothing of it is ever stored. To add one: a frozen dataclass below with `@search_samplers.register("name")`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcsearch.config import Document
from gcsearch.registry import Component, Registry
from gcsearch.tuning.space import Choice, Chooser, FixedChooser, Node, Params, Range, Space

Drawn = dict[str, tuple[Any, Node]]
"""Value and node behind every unique node name that a trial drew."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is known of one trial.

    Attributes:
        drawn: Value and node of every choice that was made, by the node's unique name.
        scores: Score at each rung reached, by images; lower is better, infinite for a diverged trial.
        is_running: Whether more may come.
    """

    drawn: Drawn
    scores: dict[int, float]
    is_running: bool


class SearchSampler(Component, ABC):
    """A rule for suggesting parameters."""

    @abstractmethod
    def chooser(self, observations: Sequence[Observation], rungs: Sequence[int], seed: int, number: int) -> Chooser:
        """Chooser for trial `number`, given all earlier trials.

        Args:
            observations: Earlier trials, in order.
            rungs: Images of all rungs, increasing.
            seed: Seed of the search.
            number: Number of the trial; with the seed it fixes every random choice.
        """


search_samplers: Registry[SearchSampler] = Registry("search sampler")


class RandomChooser:
    """Uniform choices, log-uniform on log ranges."""

    def __init__(self, seed: int, number: int) -> None:
        self.random = np.random.default_rng([seed, number])

    def number(self, name: str, node: Range) -> float:
        del name
        if node.is_integer and not node.is_log:
            return int(self.random.integers(int(node.low), int(node.high), endpoint=True))
        if node.is_log:
            value = math.exp(self.random.uniform(math.log(node.low), math.log(node.high)))
        else:
            value = self.random.uniform(node.low, node.high)
        value = min(max(value, node.low), node.high)
        return round(value) if node.is_integer else value

    def option(self, name: str, node: Choice) -> Any:
        del name
        return node.options[int(self.random.integers(len(node.options)))].label


class TPEChooser:
    """Choices of an Optuna trial, under the nodes' unique names."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def number(self, name: str, node: Range) -> float:
        if node.is_integer:
            return int(self.trial.suggest_int(name, int(node.low), int(node.high), log=node.is_log))
        return float(self.trial.suggest_float(name, node.low, node.high, log=node.is_log))

    def option(self, name: str, node: Choice) -> Any:
        return self.trial.suggest_categorical(name, [option.label for option in node.options])


@search_samplers.register("random")
@dataclass(frozen=True, kw_only=True)
class RandomSampler(SearchSampler):
    """Independent random choices: the baseline every other sampler has to beat."""

    def chooser(self, observations: Sequence[Observation], rungs: Sequence[int], seed: int, number: int) -> Chooser:
        del observations, rungs
        return RandomChooser(seed, number)


@search_samplers.register("auto")
@dataclass(frozen=True, kw_only=True)
class RungAwareTPE(SearchSampler):
    """Tree-structured Parzen estimator on the highest rung that enough trials have reached.

    A stopped trial's early score is never taken for a final one: the model sees the scores of one rung only. A fixed
    share of the trials stays random, so that early stopping on a wrong rung cannot lock the search in.

    Attributes:
        min_observations: Finite scores that a rung needs before it is modelled. Diverged trials do not count towards
            it, as a rung that only they "reached" says nothing about what is good; once it is modelled they are bad.
        random_share: Probability that a trial is drawn at random, in [0, 1].

    Source: the rung rule is BOHB's (Falkner et al. 2018, arXiv:1807.01774); the estimator is Optuna's.
    """

    min_observations: int = 8
    random_share: float = 0.25

    def __post_init__(self) -> None:
        if self.min_observations < 2:
            raise ValueError(f"min_observations must be at least 2, got {self.min_observations}")
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"random_share must be in [0, 1], got {self.random_share}")

    def chooser(self, observations: Sequence[Observation], rungs: Sequence[int], seed: int, number: int) -> Chooser:
        random = RandomChooser(seed, number)
        is_random = np.random.default_rng([seed, number, 1]).random() < self.random_share
        rung = self._modelled_rung(observations, rungs)
        if rung is None or is_random:
            return random
        return TPEChooser(_ask_optuna(observations, rung, seed, number))

    def _modelled_rung(self, observations: Sequence[Observation], rungs: Sequence[int]) -> int | None:
        for rung in sorted(rungs, reverse=True):
            scores = (observation.scores.get(rung, math.inf) for observation in observations)
            if sum(map(math.isfinite, scores)) >= self.min_observations:
                return rung
        return None


def _ask_optuna(observations: Sequence[Observation], rung: int, seed: int, number: int) -> Any:
    """An Optuna trial whose suggestions model the scores at `rung`; running trials count as already taken."""
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trial_seed = int(np.random.SeedSequence([seed, number, 2]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=trial_seed, n_startup_trials=0, multivariate=True, group=True, constant_liar=True
        )
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for observation in observations:
        if rung in observation.scores:
            study.add_trial(_frozen(observation.drawn, observation.scores[rung]))
        elif observation.is_running:
            study.add_trial(_frozen(observation.drawn, None))
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


class Recorder:
    """Wraps a chooser and remembers the value and node of every name it was asked for."""

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser
        self.drawn: Drawn = {}

    def number(self, name: str, node: Range) -> float:
        value = self.chooser.number(name, node)
        self.drawn[name] = (value, node)
        return value

    def option(self, name: str, node: Choice) -> Any:
        value = self.chooser.option(name, node)
        self.drawn[name] = (value, node)
        return value


def drawn_from(space: Space, base: Document, params: Params) -> Drawn:
    """The choices behind a trial's flat parameters."""
    recorder = Recorder(FixedChooser(params))
    space.draw(recorder, base)
    return recorder.drawn
