"""Whether the objectives of a study can be searched: scores of its experiment, and costs beside them."""

from __future__ import annotations

from collections.abc import Sequence

from gcsearch.config import Document, Experiment
from gcsearch.errors import ConfigError, suggestion
from gcsearch.metrics import ModelMetric
from gcsearch.tuning.settings import COSTS, Objective


def check_objectives(objectives: Sequence[Objective], experiment: Experiment, document: Document) -> None:
    """Nothing, if a study of `experiment` can have these objectives.

    Raises:
        ConfigError: It cannot, with file and line.
    """
    is_one = len(objectives) == 1
    for index, objective in enumerate(objectives):
        at: tuple[str | int, ...] = ("objective",) if is_one else ("objective", index)
        _check_metric(objective, experiment, document, at, is_cost_possible=index > 0)
        if not is_one and objective.use == "best":
            raise ConfigError(
                f"{document.where((*at, 'use'))}: objective.use must be last where there are several objectives, got "
                "best: the best values of a training need not be of the same weights. Leave it out."
            )
        if objective.key in (other.key for other in objectives[:index]):
            raise ConfigError(
                f"{document.where((*at, 'metric'))}: objective must name every metric once, '{objective.metric}' is "
                "there twice. Remove one."
            )
    first = experiment.evaluation.scores[0].keys[0]
    if objectives[0].use == "best" and objectives[0].key != f"eval/{first}":
        raise ConfigError(
            f"{document.where(('objective', 'use'))}: objective.use: best must go with the first of "
            f"evaluation.metrics, whose best weights are kept, got '{objectives[0].metric}' while '{first}' is "
            "first. Reorder the metrics."
        )


def _check_metric(
    objective: Objective,
    experiment: Experiment,
    document: Document,
    at: tuple[str | int, ...],
    *,
    is_cost_possible: bool,
) -> None:
    metrics = {f"eval/{key}": metric.lower_is_better for key, metric in experiment.evaluation.score_keys.items()}
    known = [key.removeprefix("eval/") for key in metrics]
    costs = [f"cost/{name}" for name in COSTS]
    if is_cost_possible:
        metrics |= dict.fromkeys(costs, True)
        known += COSTS
    if objective.key not in metrics:
        extra = ""
        if objective.key in costs:
            extra = " A cost may be the second objective of several: the cheapest training alone is none at all."
        elif objective.metric.startswith("train"):
            extra = " The training loss is not comparable across schedules, couplings or distances."
        elif _is_diagnostic(objective.metric, experiment):
            extra = (
                " A diagnostic is not comparable across schedules, and generated end points lower it by construction."
            )
        what = "a score that the experiment computes" + (", or a cost of training" if is_cost_possible else "")
        raise ConfigError(
            f"{document.where((*at, 'metric'))}: objective.metric must be {what}, got '{objective.metric}'.{extra} "
            f"{suggestion(objective.metric, known)}"
        )
    if (objective.goal == "minimize") != metrics[objective.key]:
        right = "minimize" if metrics[objective.key] else "maximize"
        raise ConfigError(f"{document.where((*at, 'goal'))}: objective.goal must be {right} for {objective.metric}.")


def _is_diagnostic(metric: str, experiment: Experiment) -> bool:
    """Whether an objective names a metric of the networks instead of their samples."""
    section, _, key = metric.rpartition("/")
    keys = {key for diagnostic in experiment.evaluation.diagnostics for key in diagnostic.keys}
    return section == ModelMetric.section or (not section and key in keys)
