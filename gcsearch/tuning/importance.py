"""Importance of parameters by Optuna: PED-ANOVA, also for parameters that only some trials have."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

MIN_TOP: Final = 5
"""Trials that the best share must hold, so that there is a density to estimate."""

TOP: Final = 0.1
"""The best share, where it holds that many; never more than half."""


class PedAnova:
    """How much the values of each parameter differ between the best trials and all.

    The Pearson divergence between two densities of a parameter, that of the best share of trials and that of all:
    0 where being among the best does not depend on it.

    Args:
        trials: For each trial, by parameter, the group in which its values may be compared (a learning rate of lion
            is none of adam) and its value: a place from 0 to 1, or a word.
        losses: How bad each trial was; less is better, all finite.

    Source: Watanabe et al. 2023 (arXiv:2304.10255); for parameters that only some trials have, arXiv:2601.20800.
    """

    def __init__(self, trials: Sequence[Mapping[str, tuple[str, float | str]]], losses: Sequence[float]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        distributions = _distributions(trials)
        self._trials = [
            optuna.trial.create_trial(
                params={
                    key: value if isinstance(value, str) else distributions[key, group].low + value
                    for key, (group, value) in trial.items()
                },
                distributions={key: distributions[key, group] for key, (group, _) in trial.items()},
                value=loss,
            )
            for trial, loss in zip(trials, losses, strict=True)
        ]
        for number, trial in enumerate(self._trials):
            trial._trial_id = number  # the evaluator tells trials apart by it, and a study's storage would set it

    def __call__(self, picked: Sequence[int]) -> dict[str, float]:
        """Importance of each parameter among some of the trials; a trial may be picked more than once."""
        import optuna

        class Picked(optuna.Study):
            """Trials without the copy of each that adding them to a study would make."""

            def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[Any]:
                return chosen

        chosen = [self._trials[index] for index in picked]
        storage = optuna.storages.InMemoryStorage()
        name = "importance"
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], name)
        quantile = max(TOP, min(0.5, MIN_TOP / len(chosen)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a choice has few trials; the intervals say so
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
            return evaluator.evaluate(Picked(study_name=name, storage=storage))


def _distributions(trials: Sequence[Mapping[str, tuple[str, float | str]]]) -> dict[tuple[str, str], Any]:
    """One for each parameter and group; equal ones would be taken for the same group."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    words: dict[tuple[str, str], dict[str, None]] = {}
    for trial in trials:
        for key, (group, value) in trial.items():
            words.setdefault((key, group), {}).update({value: None} if isinstance(value, str) else {})
    return {
        place: CategoricalDistribution(list(options)) if options else FloatDistribution(float(index), index + 1.0)
        for index, (place, options) in enumerate(words.items())
    }
