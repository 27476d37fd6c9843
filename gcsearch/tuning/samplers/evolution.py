"""Evolutionary samplers: NSGA-II from Optuna, CMA-ES from the package that Optuna's own sampler computes with.

Both go by generations, which are defined by trial numbers: generation g is the trials g n to (g + 1) n - 1. So nothing
but the ledger is needed to know them, where Optuna keeps generations, and a pickle of CMA-ES, with its trials. A trial
that went further than another counts as better, since the stopping rule chose it; at the same rung the scores decide.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gcsearch.config import Document
from gcsearch.tuning.samplers.base import (
    History,
    RandomChooser,
    SearchSampler,
    from_unit,
    is_conditional,
    nodes_of,
    search_samplers,
)
from gcsearch.tuning.samplers.from_optuna import OptunaChooser, frozen_trial, optuna_seed, standings, worst_standing
from gcsearch.tuning.space import Choice, Chooser, FixedChooser, Range, Space

EDGE = 1e-9
"""How far inside its range a numeric start lies: on a bound, half of all draws would be outside."""


@search_samplers.register("nsga2")
@dataclass(frozen=True, kw_only=True)
class NSGA2Sampler(SearchSampler):
    """Optuna's NSGA-II, a genetic algorithm for one or more objectives.

    The first generation is random. A later trial crosses two parents, chosen by front and crowding distance among all
    earlier generations; each parameter is drawn anew with probability 1 / number of parameters, and one that exists
    only sometimes always is. Numbers are crossed by BLX-alpha, which also tries what lies between and around the
    parents; Optuna's default takes each from one of them, which in a small population soon repeats itself.

    Attributes:
        population: Trials in a generation, and parents kept.

    Source: Deb et al. 2002 (NSGA-II); Eshelman and Schaffer 1993 (BLX-alpha).
    """

    population: int = 8

    def __post_init__(self) -> None:
        if self.population < 2:
            raise ValueError(f"population must be at least 2, got {self.population}")

    def chooser(self, history: History) -> Chooser:
        import optuna

        told = standings(history)
        earlier = told[: len(told) // self.population * self.population]
        if sum(values is not None for values in earlier) < 2:
            return RandomChooser(history.seed, history.number)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = _numbered_generations(self.population, optuna_seed(history))
        study = optuna.create_study(directions=["minimize"] * history.num_objectives, sampler=sampler)
        states = optuna.trial.TrialState
        for observation, values in zip(history.observations, told, strict=True):
            state = states.FAIL if values is None else states.COMPLETE
            study.add_trial(frozen_trial(observation.drawn, values, state))
        return OptunaChooser(study.ask())


def _numbered_generations(population: int, seed: int) -> Any:
    """Optuna's sampler, with generations by trial number in place of those that it writes into its trials."""
    import optuna

    class NumberedNSGAII(optuna.samplers.NSGAIISampler):
        def get_trial_generation(self, study: Any, trial: Any) -> int:
            del study
            return int(trial.number) // population

        def get_population(self, study: Any, generation: int) -> list[Any]:
            done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
            return [trial for trial in done if trial.number // population == generation]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        crossover = optuna.samplers.nsgaii.BLXAlphaCrossover()
        return NumberedNSGAII(population_size=population, crossover=crossover, seed=seed)


@search_samplers.register("cmaes")
@dataclass(frozen=True, kw_only=True)
class CMAESSampler(SearchSampler):
    """CMA-ES: draws from a normal distribution that follows the better half of each generation.

    For spaces of numbers alone and one objective, and for a few hundred trials: with fewer it has hardly moved. It
    begins in the middle of the space, or at the first of `start_from`. A generation is learned from when all its trials
    have ended or wait at a rung.

    Attributes:
        sigma: First standard deviation, as a share of every range, in (0, 1].
        population: Trials in a generation; None takes 4 + floor(3 ln d) for d parameters.

    Source: Hansen 2016 (arXiv:1604.00772), by the package `cmaes` (Nomura and Shibata 2024, arXiv:2402.01373).
    """

    max_objectives: ClassVar[float] = 1

    sigma: float = 0.25
    population: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise ValueError(f"sigma must be in (0, 1], got {self.sigma}")
        if self.population is not None and self.population < 4:
            raise ValueError(f"population must be at least 4, got {self.population}")

    def check(self, space: Space, base: Document) -> None:
        choices = [name for name, node in nodes_of(space).items() if isinstance(node, Choice)]
        if choices:
            raise ValueError(
                f"sampler cmaes searches numbers only, and {choices[0]} is one of several options. Use auto."
            )
        if is_conditional(space):
            raise ValueError("sampler cmaes needs parameters that always exist, and some depend on others. Use auto.")

    def chooser(self, history: History) -> Chooser:
        from cmaes import CMA

        nodes = {name: node for name, node in nodes_of(history.space).items() if isinstance(node, Range)}
        mean = np.full(len(nodes), 0.5)
        if history.num_given:
            given = history.observations[0].units
            mean = np.clip([given[name] for name in nodes], EDGE, 1 - EDGE)
        optimizer = CMA(
            mean=mean,
            sigma=self.sigma,
            bounds=np.tile([0.0, 1.0], (len(nodes), 1)),
            seed=optuna_seed(history),
            population_size=self.population,
        )
        for generation in self._generations(history, list(nodes), optimizer.population_size):
            optimizer.tell(generation)
        units: NDArray[np.float64] = np.clip(optimizer.ask(), 0.0, 1.0)
        values = {name: from_unit(float(unit), node) for (name, node), unit in zip(nodes.items(), units, strict=True)}
        return FixedChooser(values)

    @staticmethod
    def _generations(
        history: History, names: list[str], population: int
    ) -> list[list[tuple[NDArray[np.float64], float]]]:
        """Complete generations: each trial with its rank, the worst where it failed without a score."""
        observations, told = list(history.observations), standings(history)
        worst, found = worst_standing(history), []
        for start in range(history.num_given, len(observations) - population + 1, population):
            members = range(start, start + population)
            if any(observations[index].is_running for index in members):
                break
            points = [np.array([observations[index].units[name] for name in names]) for index in members]
            values = [worst if (known := told[index]) is None else known[0] for index in members]
            found.append(list(zip(points, values, strict=True)))
        return found
