"""The default sampler: Bayesian optimisation that knows what a rung is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from threadpoolctl import ThreadpoolController

from gcsearch.tuning.samplers.base import (
    Drawn,
    History,
    Observation,
    RandomChooser,
    SearchSampler,
    search_samplers,
)
from gcsearch.tuning.samplers.neighbours import NeighbourChooser
from gcsearch.tuning.samplers.observed import Encoder, observe, spaced
from gcsearch.tuning.samplers.rung_process import Floats, RungProcess
from gcsearch.tuning.space import Chooser, FixedChooser, Params

ROUNDS, PARENTS = 2, 4
"""Times that the most promising candidates are varied, and how many are."""

PRIOR_AGREEING, PRIOR_OPPOSED = 3, 1
"""Pairs of trials that a rung is taken to have ranked rightly and wrongly before anything is known."""


@search_samplers.register("auto")
@dataclass(frozen=True, kw_only=True)
class RungAwareBO(SearchSampler):
    """Bayesian optimisation with a Gaussian process over parameters and rungs.

    A stopped trial's early score is never taken for a final one: the process knows at which rung a score was measured,
    learns how rungs are related, and is asked about the horizon. A suggestion is the candidate with the lowest
    confidence bound mean - kappa deviation there; kappa is drawn anew for each trial, so that suggestions made from
    nearly the same knowledge differ. Candidates are random trials and variations of promising ones.

    The model is asked only as often as it can know: with a probability that is the smaller of two correlations between
    the highest rung with enough scores and later ones: the process's own, and max(0, tau), Kendall's among the trials
    that went further. Otherwise, and for a fixed share, the trial is random, so that a rung that misleads cannot lock
    the search in. Of many good trials with the same score the model learns little, so the second correlation is
    multiplied by the share of the best third of scores at that rung that differ. Nothing is suggested twice.

    Where early scores of different groups are not compared (`within` of a stopping rule), the model does not compare
    them either: until each group has a trial of full length, chance says which one a suggestion is from.

    Attributes:
        min_observations: Finite scores that are needed before anything is modelled, and at a rung before it counts as
            known. Diverged trials do not count, as a rung that only they "reached" says nothing about what is good;
            once there is a model they are as bad as the worst.
        random_share: Probability that a trial is drawn at random, in [0, 1].
        num_candidates: Candidates of each kind from which a suggestion is taken.

    Source: Cox and John 1992 for the bound; Hutter et al. 2012 (LNCS 7219, 55) for a random kappa from an exponential
        distribution; `RungProcess` for the model. The trust in a rung is ours.
    """

    min_observations: int = 8
    random_share: float = 0.15
    num_candidates: int = 48

    def __post_init__(self) -> None:
        if self.min_observations < 2:
            raise ValueError(f"min_observations must be at least 2, got {self.min_observations}")
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"random_share must be in [0, 1], got {self.random_share}")
        if self.num_candidates < PARENTS:
            raise ValueError(f"num_candidates must be at least {PARENTS}, got {self.num_candidates}")

    def chooser(self, history: History) -> Chooser:
        with _one_thread():
            return self._suggested(history)

    def _suggested(self, history: History) -> Chooser:
        random = history.generator(1)
        by_chance = RandomChooser(history.seed, history.number)
        rungs = spaced(history.rungs)
        known = self._highest_known(history, rungs)
        if known is None or random.random() < self.random_share:
            return by_chance
        encoder, horizon = Encoder(history.space), len(rungs) - 1
        doubt, agreement = random.random(), self._agreement(history, rungs[known])
        if doubt > agreement:
            return by_chance
        process = self._process(history, encoder, rungs)
        if doubt > process.kernel.relation(known, horizon):
            return by_chance
        kappa = random.exponential()
        under_way = [one for one in history.observations if one.is_running and not one.scores]
        if under_way:
            process = process.believing(encoder.features(under_way), horizon)

        def bound(trials: Sequence[Observation]) -> Floats:
            mean, deviation = process.posterior(encoder.features(trials), horizon)
            return mean - kappa * deviation

        return FixedChooser({name: value for name, (value, _) in self._lowest(bound, history, random).items()})

    def expected(self, history: History) -> list[float] | None:
        rungs = spaced(history.rungs)
        if self._highest_known(history, rungs) is None:
            return None
        encoder = Encoder(history.space)
        with _one_thread():
            process = self._process(history, encoder, rungs)
            return [float(mean) for mean in process.mean(encoder.features(history.observations), len(rungs) - 1)]

    def _process(self, history: History, encoder: Encoder, rungs: Sequence[int]) -> RungProcess:
        """The model of what is known. The last one is kept: a suggestion often follows a look at waiting trials."""
        observed = observe(history, encoder, rungs)
        key = observed.features.tobytes() + observed.rungs.tobytes() + observed.scores.tobytes()
        if key not in self._kept:
            self._kept.clear()
            self._kept[key] = RungProcess(observed)
        return self._kept[key]

    @cached_property
    def _kept(self) -> dict[bytes, RungProcess]:
        return {}

    def _highest_known(self, history: History, rungs: Sequence[int]) -> int | None:
        """Index of the highest rung with enough finite scores."""
        for index in reversed(range(len(rungs))):
            if len(_finite_scores(history, rungs[index])) >= self.min_observations:
                return index
        return None

    @staticmethod
    def _agreement(history: History, rung: int) -> float:
        """How far a rung can be trusted, in [0, 1]: how well it ranks, times the share of good scores that differ."""
        scores = sorted(_finite_scores(history, rung))
        scores = scores[: max(2, len(scores) // 3)]
        tau = 1.0 if rung == history.rungs[-1] else rank_agreement(history, rung)
        return tau * len(set(scores)) / len(scores)

    def _lowest(
        self, bound: Callable[[Sequence[Observation]], Floats], history: History, random: np.random.Generator
    ) -> Drawn:
        """The candidate with the lowest bound: of random ones, of known trials varied, of the best of these varied."""
        scored = [one for one in history.observations if one.scores]
        seed = int(random.integers(2**32))
        fixed = self._group_by_chance(history, seed)
        promising = [scored[index] for index in np.argsort(bound(scored), kind="stable")]

        def varied(parents: Sequence[Observation], count: int) -> list[Observation]:
            chosen = (parents[min(int(random.exponential(PARENTS)), len(parents) - 1)] for _ in range(count))
            return [_candidate(history, FixedChooser(fixed, NeighbourChooser(parent, random))) for parent in chosen]

        by_chance = (RandomChooser(seed, number) for number in range(1, self.num_candidates + 1))
        candidates = [_candidate(history, FixedChooser(fixed, chooser)) for chooser in by_chance]
        candidates += varied(promising, self.num_candidates // 2)
        bounds = bound(candidates)
        for _ in range(ROUNDS):
            best = [candidates[index] for index in np.argsort(bounds, kind="stable")[:PARENTS]]
            more = varied(best, self.num_candidates // 2)
            candidates, bounds = [*candidates, *more], np.concatenate([bounds, bound(more)])
        tried = {_identity(one) for one in history.observations}
        bounds = np.where([_identity(one) in tried for one in candidates], math.inf, bounds)
        return candidates[int(np.argmin(bounds))].drawn

    @staticmethod
    def _group_by_chance(history: History, seed: int) -> Params:
        """The group that is suggested from, until each has a trial of full length; then any will do."""
        known = {history.group(one) for one in history.observations}
        finished = {history.group(one) for one in history.observations if history.rungs[-1] in one.scores}
        if history.within is None or known <= finished:
            return {}
        group = history.group(_candidate(history, RandomChooser(seed, 0)))
        return {} if group is None else {history.within: group}


def _one_thread() -> AbstractContextManager[object]:
    """Linear algebra on one thread: more of them spin while they wait, and take the cores from the trials."""
    limit: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="blas")
    return limit


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def rank_agreement(history: History, rung: int) -> float:
    """Kendall correlation of the scores at a rung with later ones, 0 where it is negative.

    A pair of trials of one group that went further is compared at the highest rung that both have. PRIOR_AGREEING and
    PRIOR_OPPOSED pairs are added, so it is 0.5 before anything is known.

    Args:
        history: The trials, and inside which groups early scores are compared.
        rung: Images of the rung.
    """
    trials = [one for one in history.observations if _is_finite(one, rung) and max(one.scores) > rung]
    later, groups = [one.scores for one in trials], [str(history.group(one)) for one in trials]
    if len(later) < 2:
        return (PRIOR_AGREEING - PRIOR_OPPOSED) / (PRIOR_AGREEING + PRIOR_OPPOSED)
    rungs = sorted({images for scores in later for images in scores})
    highest = np.array([rungs.index(max(scores)) for scores in later], dtype=np.int64)
    table = np.array([[scores.get(images, math.inf) for images in rungs] for scores in later])
    left, right = np.triu_indices(len(later), k=1)
    is_comparable = np.array(groups)[left] == np.array(groups)[right]
    left, right = left[is_comparable], right[is_comparable]
    shared = np.minimum(highest[left], highest[right])
    here = table[left, rungs.index(rung)] - table[right, rungs.index(rung)]
    with np.errstate(invalid="ignore"):  # of two that diverged neither is better
        there = table[left, shared] - table[right, shared]
    agreeing = PRIOR_AGREEING + np.count_nonzero(here * there > 0)
    opposed = PRIOR_OPPOSED + np.count_nonzero(here * there < 0)
    return max(0.0, (agreeing - opposed) / (agreeing + opposed))


def _is_finite(one: Observation, rung: int) -> bool:
    return math.isfinite(one.scores.get(rung, math.inf))


def _identity(one: Observation) -> frozenset[tuple[str, float]]:
    return frozenset(one.units.items())


def _candidate(history: History, chooser: Chooser) -> Observation:
    return Observation(drawn=history.draw(chooser), scores={}, is_running=False)


def _finite_scores(history: History, rung: int) -> list[float]:
    return [one.scores[rung] for one in history.observations if _is_finite(one, rung)]
