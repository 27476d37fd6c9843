"""What an export of an ablation holds: not the luckiest training, but one of the best arm."""

from __future__ import annotations

import json
import math

import pytest

from gcsearch.ablations import Contrast, Plan
from gcsearch.analysis.results import open_results
from gcsearch.errors import StudyError
from gcsearch.export import export_trial
from gcsearch.export.arms import arm_replicates, best_training
from gcsearch.export.wording import choice_text
from gcsearch.ledger import LEDGER_NAME
from gcsearch.statistics import Margin

SCORES = {
    "baseline": (5.1, 4.9, 5.0),
    "lucky": (3.0, 9.0, 9.0),
    "diverging": (2.0, 2.0, math.inf),
    "short": (1.0, 1.0),
}


@pytest.fixture
def ablation(tmp_path):
    """An ablation of known scores; of metrics of which more is better, with their signs changed."""

    def make(scores=SCORES, *, sign=1):
        arms = tuple(scores)
        contrasts = (Contrast(name=arm, plus=(arm,), minus=arms[:1], reference=arms[0]) for arm in arms[1:])
        plan = Plan(
            arms=arms,
            contrasts=tuple(contrasts),
            seeds=(0, 1, 2),
            looks=(3,),
            key="eval/fid",
            lower_is_better=sign > 0,
            margin=Margin(value=0.01),
        )
        goal = "minimize" if sign > 0 else "maximize"
        objective = {"metric": "fid", "key": "eval/fid", "goal": goal, "use": "last"}
        events = [{"event": "study_started", "study": "known", "objective": objective, "ablation": plan.to_dict()}]
        for index, (arm, values) in enumerate(scores.items()):
            for seed, value in enumerate(values):
                trial = {"trial": f"{index:02d}-s{seed}"}
                events.append({"event": "trial_started", **trial, "kind": "arm", "arm": arm, "seed": seed})
                if math.isfinite(value):
                    metrics = {"eval/fid": sign * value, "cost/train_seconds": 2.0}
                    events.append({"event": "result", **trial, "images": 100, "metrics": metrics, "identities": {}})
                state = "completed" if math.isfinite(value) else "diverged"
                events.append({"event": "trial_ended", **trial, "state": state})
        lines = (json.dumps({"time": "2026-01-01T00:00:00+00:00"} | event) + "\n" for event in events)
        (tmp_path / LEDGER_NAME).write_text("".join(lines))
        return open_results(tmp_path)

    return make


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_training_is_of_the_arm_with_the_best_mean(ablation, sign):
    results = ablation(sign=sign)
    assert [arm.candidate for arm in arm_replicates(results)] == ["baseline", "lucky"]
    record = best_training(results)
    assert record.trial == "00-s1"  # neither the luckiest, 01-s0, nor those of arms that are not through
    said = choice_text(results, record)
    assert "has the best mean of 2 arms" in said
    assert "the best of its 3" in said


def test_another_training_is_told_for_what_it_is(ablation):
    results = ablation()
    assert "has mean number 2 of 2 arms: **7, 95 % interval" in choice_text(results, results.state.trials["01-s0"])
    assert "did not complete on all seeds" in choice_text(results, results.state.trials["02-s0"])


def test_without_a_complete_arm_there_is_nothing_to_choose(ablation, tmp_path):
    results = ablation({"baseline": (math.inf,) * 3})
    with pytest.raises(StudyError, match="no arm has completed on its seeds"):
        export_trial(results, tmp_path / "export")
    with pytest.raises(StudyError, match="has no trial 7-s2"):
        export_trial(results, tmp_path / "export", "7-s2")
    assert not (tmp_path / "export").exists()
