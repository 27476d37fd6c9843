"""Fronts: against the definition, and what a study shows of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gcsearch.analysis.pareto import pareto_front
from gcsearch.analysis.results import StudyResults
from gcsearch.ledger import Ledger
from gcsearch.pareto import front_ranks

TIME = "2000-01-01T00:00:00.000+00:00"


def dominates(left, right):
    return all(a <= b for a, b in zip(left, right, strict=True)) and any(
        a < b for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("num_objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_fronts_are_those_of_the_definition(num_objectives, seed):
    """Peel off what nothing left dominates, until nothing is left."""
    points = np.random.default_rng(seed).integers(0, 6, (40, num_objectives)).astype(float).tolist()
    points[3] = [math.inf] * num_objectives
    left, front, expected = set(range(40)), 0, {}
    while left:
        best = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        expected |= dict.fromkeys(best, front)
        left, front = left - best, front + 1
    assert front_ranks(points).tolist() == [expected[i] for i in range(40)]


def test_one_objective_ranks_by_value_and_equal_values_share_a_front():
    assert front_ranks([[3.0], [1.0], [2.0], [1.0]]).tolist() == [2, 0, 1, 0]
    assert front_ranks(np.empty((0, 2))).tolist() == []


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        front_ranks([[math.nan, 1.0]])


def study(objectives, values, state="completed"):
    ledger = Ledger()
    ledger.add(
        {"event": "study_started", "time": TIME, "study": "s", "objective": objectives[0], "objectives": objectives}
    )
    for number, metrics in enumerate(values):
        trial = f"{number:04d}"
        ledger.add({"event": "trial_started", "time": TIME, "trial": trial, "kind": "trial", "params": {}})
        ledger.add({"event": "result", "time": TIME, "trial": trial, "images": 10, "metrics": metrics})
        ledger.add({"event": "trial_ended", "time": TIME, "trial": trial, "state": state})
    return StudyResults(directory=Path("s"), state=ledger.state)


FID = {"metric": "fid", "key": "eval/fid", "goal": "minimize", "use": "last"}
RECALL = {"metric": "recall", "key": "eval/recall", "goal": "maximize", "use": "last"}


def test_the_front_of_a_study_follows_the_goals_and_begins_with_the_best_of_the_first_objective():
    values = [
        {"eval/fid": 5.0, "eval/recall": 0.9},
        {"eval/fid": 2.0, "eval/recall": 0.4},
        {"eval/fid": 6.0, "eval/recall": 0.8},  # worse than the first in both
        {"eval/fid": 1.0},  # without the other objective
    ]
    results = study([FID, RECALL], values)
    assert [record.trial for record in pareto_front(results)] == ["0001", "0000"]


def test_only_completed_trials_are_on_a_front_and_one_objective_has_its_best():
    assert pareto_front(study([FID], [{"eval/fid": 1.0}], state="stopped")) == []
    assert [one.trial for one in pareto_front(study([FID], [{"eval/fid": 2.0}, {"eval/fid": 1.0}]))] == ["0001"]
