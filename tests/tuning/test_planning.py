"""What a study will cost: counts that can be computed by hand, and costs that add up."""

from __future__ import annotations

import json

import pytest
import torch

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.statistics import resolvable_gap
from gcsearch.tuning.planning import make_plan, measure, simulated

pytestmark = pytest.mark.filterwarnings("ignore")


def test_without_stopping_every_trial_reaches_every_rung(load):
    counts = simulated(load(stopping="none"), 2)
    assert counts.trials == 9
    assert counts.reached == {800: 9, 1600: 9, 2400: 9, 3200: 9}
    assert counts.images == 9 * 3200
    assert counts.evaluations == 9 * 4


def test_successive_halving_keeps_its_share(load, sections):
    """27 trials one after the other, of which a third goes on at each rung: 27, 9, 3 (Li et al., Algorithm 2)."""
    stopping = sections["stopping"] | {"variant": "promotion", "factor": 3}
    counts = simulated(load(stopping=stopping, budget={"trials": 27}), 1)
    assert counts.reached[800] == 27
    assert counts.reached[2400] == pytest.approx(9, abs=1.5)
    assert counts.reached[1600] == counts.reached[2400]  # rungs of the rule are 800 and 2400


def test_images_that_may_be_spent_bound_the_search(load):
    study = load(stopping="none", budget={"gpu_hours": 1.0})
    assert simulated(study, 1, 10 * 3200 + 100).trials == 10


def test_a_grid_ends_by_itself(load):
    study = load(space={"coupling.mu": {"min": 0.0, "max": 1.0}}, search={"sampler": {"name": "grid", "points": 4}})
    assert simulated(study, 1).trials == 4


def test_costs_add_up_and_workers_share_them(load, monkeypatch):
    monkeypatch.setattr("gcsearch.tuning.planning.measure", lambda experiment, device: (0.5, 0.01))
    finalists = {"top": 2, "seeds": [1, 2, 3], "num_samples": 1000}
    resources = {"concurrent": 3}
    plan = make_plan(load(stopping="none", finalists=finalists, resources=resources))
    seconds = 9 * 3200 * 0.5 + 9 * 4 * 2 * 64 * 0.01  # two networks are judged at each of four rungs
    assert plan.search.device_hours == pytest.approx(seconds / 3600)
    assert plan.search.wall_hours == pytest.approx(seconds / 3600 / 3)
    assert plan.num_finalists == 6
    assert plan.finalists.device_hours == pytest.approx(6 * (3200 * 0.5 + 4 * 2 * 1000 * 0.01) / 3600)
    assert plan.gap == (pytest.approx(resolvable_gap(0.01, 3)), pytest.approx(resolvable_gap(0.02, 3)))
    assert sum(step.share for step in plan.steps) == pytest.approx(1.0)
    wide = make_plan(load(stopping="none", resources=resources | {"workers": 2}))
    assert wide.search.device_hours == pytest.approx(plan.search.device_hours)
    assert wide.search.wall_hours == pytest.approx(plan.search.wall_hours / 2)
    assert wide.finalists is wide.gap is None
    json.dumps(plan.to_dict(), allow_nan=False)


@pytest.mark.parametrize("limit", ["wall_hours", "gpu_hours"])
def test_a_budget_in_hours_buys_what_it_costs(load, monkeypatch, limit):
    monkeypatch.setattr("gcsearch.tuning.planning.measure", lambda experiment, device: (0.5, 0.0))
    study = load(stopping="none", budget={limit: 2.0}, resources={"concurrent": 2})
    plan = make_plan(study)
    images = 2.0 * 3600 / 0.5 * (2 if limit == "wall_hours" else 1)
    assert images - 2 * 800 < plan.counts.images <= images  # nothing is begun that would not get to its rung


def test_without_the_gpu_that_trials_ask_for_the_cost_is_not_known(load, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    plan = make_plan(load(resources={"gpus_per_worker": 1}))
    assert plan.search is None
    assert plan.steps == ()
    assert plan.unit == "GPU"
    with pytest.raises(ConfigError, match="must be planned on a machine with the GPUs it asks for"):
        make_plan(load(budget={"gpu_hours": 1.0}, resources={"gpus_per_worker": 1}))


def test_a_larger_network_costs_more_and_needs_no_data():
    def cost(width):
        config = {"name": "x", "data": "cifar10", "network": {"name": "mlp", "width": width}}
        return measure(Experiment.from_dict(config, source="test"), torch.device("cpu"))

    small, large = cost(16), cost(512)
    assert 0 < small[0] < large[0]
    assert 0 < small[1] < large[1]


# Teachers ---------------------------------------------------------------------------------------------------------


def distilled(**teacher):
    teacher = {"name": "trained", "num_images": 6_400, "batch_size": 64, **teacher}
    return {"name": "consistency_distillation", "teacher": teacher}


def test_teachers_are_counted_once_each_where_they_are_not_in_the_cache(load, monkeypatch, tmp_path):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    for place in ("planning", "teacher_costs"):
        monkeypatch.setattr(f"gcsearch.tuning.{place}.measure", lambda experiment, device: (0.5, 0.01))
    assert make_plan(load()).teachers == ()
    values = ["consistency", distilled(), {**distilled(), "solver": "euler"}, distilled(seed=1, num_images=3_200)]
    study = load(space={"objective": {"values": values}, "optimizer.lr": {"min": 1e-4, "max": 1e-2}}, stopping="none")
    plan = make_plan(study)
    judged = 2_000 * 2 * 0.01  # once, at the end: both networks
    assert [(one.images, one.seconds) for one in plan.teachers] == [
        (6_400, pytest.approx(6_400 * 0.5 + judged)),
        (3_200, pytest.approx(3_200 * 0.5 + judged)),
    ]
    stage = next(recipe.teacher_stage for recipe in study.recipes() if recipe.teacher_stage is not None)
    assert plan.teachers[0].fingerprint == stage.fingerprint
    stage.model_path.parent.mkdir(parents=True)
    stage.model_path.touch()
    again = make_plan(study)
    assert [one.seconds for one in again.teachers] == [0.0, plan.teachers[1].seconds]
    assert again.search == plan.search
    json.dumps(again.to_dict(), allow_nan=False)
