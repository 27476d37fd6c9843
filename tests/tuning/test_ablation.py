"""Ablations: designs, files with their mistakes, and the driver that trains every arm on every seed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gcsearch.ablations import Plan, outcomes, score_at
from gcsearch.errors import ConfigError
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.statistics import paired_power
from gcsearch.tuning.ablation import load_ablation
from gcsearch.tuning.ablation_driver import AblationDriver
from gcsearch.tuning.ablation_plan import plan_ablation
from gcsearch.tuning.designs import lay_out

ABLATIONS = Path(__file__).parents[2] / "experiments" / "ablations"
FACTORS = {"coupling": ["independent", {"name": "generator", "mu": 0.3}], "optimizer.lr": [1e-3]}
IDENTITY = (
    "metric=fid | extractor=digits@1 | reference=digits@2 x1797 | num_samples=64 | sampler=one_step | "
    "quantisation=clip_round_uint8"
)


@pytest.fixture
def load(study_file, tmp_path):
    """Loads an ablation file with these sections."""

    def make(**sections):
        study_file("name: unused\n")
        sections = {"experiment": "tiny", "factors": FACTORS, "seeds": [0, 1, 2]} | sections
        path = tmp_path / "ablation.yaml"
        path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in sections.items()))
        return load_ablation(path)

    return make


# Designs


def names(layout):
    return [arm.name for arm in layout.arms]


def test_one_factor_changes_one_thing_at_a_time():
    layout = lay_out("one_factor", FACTORS)
    assert names(layout) == ["baseline", "coupling=independent", "coupling=generator(mu=0.3)", "optimizer.lr=0.001"]
    assert all(len(arm.values) == 1 for arm in layout.arms[1:])
    assert all((one.minus, one.reference) == (("baseline",), "baseline") for one in layout.contrasts)


def test_grid_has_every_combination_with_the_baseline_s_own_values():
    layout = lay_out("grid", FACTORS)
    assert len(layout.arms) == 3 * 2
    assert len({json.dumps(dict(arm.values)) for arm in layout.arms}) == 6
    assert len(layout.contrasts) == 5


def test_leave_one_out_is_against_all_factors_together():
    layout = lay_out("leave_one_out", {"a": [1], "b": [2], "c": [3]})
    assert layout.arms[0].values == {"a": 1, "b": 2, "c": 3}
    assert [dict(arm.values) for arm in layout.arms[1:]] == [{"b": 2, "c": 3}, {"a": 1, "c": 3}, {"a": 1, "b": 2}]
    assert {one.reference for one in layout.contrasts} == {"all"}


def test_an_interaction_is_what_both_do_beyond_the_sum():
    layout = lay_out("pairs", {"a": [1], "b": [2]})
    assert names(layout) == ["baseline", "a=1", "b=2", "a=1, b=2"]
    last = layout.contrasts[-1]
    assert last.is_interaction
    scores = {"baseline": 10.0, "a=1": 8.0, "b=2": 7.0, "a=1, b=2": 4.0}
    gap = sum(scores[arm] for arm in last.plus) - sum(scores[arm] for arm in last.minus)
    assert gap == (4 - 8) - (7 - 10)


@pytest.mark.parametrize("design", ["leave_one_out", "pairs"])
def test_designs_of_single_values_refuse_several(design):
    with pytest.raises(ValueError, match="needs one value of each factor, got 2 of coupling"):
        lay_out(design, FACTORS)


# Files


def test_every_arm_is_a_recipe_on_a_seed(load):
    ablation = load()
    baseline, independent, _, rate = ablation.arms
    assert ablation.experiment_of(baseline, 2).seed == 2
    assert ablation.experiment_of(independent, 0).coupling.name == "independent"
    assert ablation.experiment_of(rate, 0).optimizer.lr == 1e-3
    assert ablation.objective.goal == "minimize"
    assert str(ablation.margin) == "1.3 %"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"factors": {"coupling.muu": [0.1]}}, r"ablation.yaml:2: .*'muu'.*Did you mean 'mu'"),
        ({"factors": {"coupling.mu": [0.5]}}, "must differ from arm 'baseline', but is the same recipe"),
        ({"factors": {"seed": [1]}}, "factors.seed must not be changed"),
        ({"factors": {"evaluation.num_samples": [10]}}, "arms that differ in it cannot be compared"),
        ({"factors": {"coupling": "ot"}}, "factors.coupling must be a list of values, got 'ot'"),
        ({"factors": {}}, "factors must be a mapping"),
        ({"design": "one_factr"}, "Did you mean 'one_factor'"),
        ({"design": "pairs"}, "needs one value of each factor"),
        ({"seeds": [1]}, "seeds must be a list of at least two different integers"),
        ({"seeds": [1, 1]}, "seeds must be a list of at least two different integers"),
        ({"max_seeds": 2}, "max_seeds must be an integer of at least the 3 seeds"),
        ({"metric": "fidd"}, "Did you mean 'fid'"),
        ({"equivalence": "0%"}, "equivalence must be > 0"),
        ({"equivalence": "little"}, "equivalence must be a share as 1.3% or a number"),
        ({"space": {"coupling.mu": [1]}}, "an ablation has no key 'space'. A study with a space is run by"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line_with_its_place(load, sections, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(**sections)
    assert "\n" not in str(caught.value)


def test_a_plan_survives_the_ledger(load):
    plan = load().plan(is_sequential=True)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.looks == (3, 5, 6)
    assert plan.seeds == (0, 1, 2, 3, 4, 5)


# The driver


def value(record, gaps):
    seed = np.random.default_rng([record.seed, 7]).normal()
    own = np.random.default_rng([record.seed, len(record.arm)]).normal()
    return 10 + gaps.get(record.arm, 0.0) + 0.1 * seed + 0.02 * own


def run(ablation, directory, gaps, *, is_sequential=False, stop_after=math.inf, diverging=()):
    """All trainings, two at a time, with made-up scores; the state at the end and the order of the starts."""
    started = []
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        state = StudyState(read_events(directory / LEDGER_NAME))
        driver = AblationDriver(ablation, ablation.plan(is_sequential), directory, ledger, state)
        driver.write("study_started", study="a", **ablation.opening(), **driver.opening())
        running = []
        while True:
            while len(running) < 2 and (record := driver.next_trial()):
                running.append(record)
                started.append(record.trial)
            if not running or len(started) > stop_after:
                break
            record = running.pop(0)
            if (record.arm, record.seed) in diverging:
                driver.on_report(record.trial, {"outcome": {"state": "diverged", "reason": "x"}})
                continue
            for images in (800, 1600):
                metrics = {
                    "eval/fid": value(record, gaps) * 1600 / images,
                    "cost/train_seconds": images * (2.0 if "generator" in record.arm else 1.0),
                    "cost/forward_units": float(images),
                }
                message = {"images": images, "metrics": metrics, "identities": {"eval/fid": IDENTITY}}
                assert not driver.on_report(record.trial, {"result": message})
            driver.on_report(record.trial, {"outcome": {"state": "completed", "reason": None}})
        if len(started) > stop_after:
            driver.interrupt()
        else:
            driver.finish()
        return driver.state, started


GAPS = {"coupling=independent": 2.0, "coupling=generator(mu=0.3)": -2.0}


@pytest.fixture
def study_folder(tmp_path, quick_disk):
    (tmp_path / "study").mkdir()
    return tmp_path / "study"


def test_every_arm_is_trained_on_every_seed_and_judged(load, study_folder):
    state, started = run(load(), study_folder, GAPS)
    assert len(started) == len(set(started)) == 4 * 3
    assert [record.seed for record in state.trials.values()] == [0] * 4 + [1] * 4 + [2] * 4
    found = {one.contrast.name: one for one in outcomes(Plan.from_dict(state.ablation), state)}
    assert found["coupling=independent"].verdict == "worse"
    assert found["coupling=generator(mu=0.3)"].verdict == "better"
    assert found["coupling=generator(mu=0.3)"].judgement.comparison.share.mean == pytest.approx(-0.2, abs=0.01)
    assert state.ended


def test_an_interrupted_ablation_goes_on_and_ends_the_same(load, study_folder, tmp_path):
    whole, _ = run(load(), study_folder, GAPS)
    folder = tmp_path / "other"
    folder.mkdir()
    _, first = run(load(), folder, GAPS, stop_after=5)
    state, second = run(load(), folder, GAPS)
    assert set(first) | set(second) == set(whole.trials)
    completed = {record.trial for record in state.of_state("completed")}
    assert completed == set(whole.trials)
    plan = Plan.from_dict(state.ablation)
    assert [one.to_dict() for one in outcomes(plan, state)] == [one.to_dict() for one in outcomes(plan, whole)]


def test_seeds_are_added_for_open_contrasts_only(load, study_folder):
    state, _ = run(load(max_seeds=6), study_folder, GAPS, is_sequential=True)
    seeds = {arm: sorted(r.seed for r in state.trials.values() if r.arm == arm) for arm in ("baseline", *GAPS)}
    plan = Plan.from_dict(state.ablation)
    found = {one.contrast.name: one for one in outcomes(plan, state)}
    for arm in GAPS:
        assert found[arm].judgement.look == len(seeds[arm])
    assert found["optimizer.lr=0.001"].judgement.num == len(seeds["baseline"])
    assert len(seeds["coupling=independent"]) < 6


def test_a_contrast_with_a_diverged_training_says_so(load, study_folder):
    state, _ = run(load(), study_folder, GAPS, diverging={("coupling=independent", 1)})
    found = {one.contrast.name: one for one in outcomes(Plan.from_dict(state.ablation), state)}
    assert (found["coupling=independent"].verdict, found["coupling=independent"].num_diverged) == ("diverged", 1)
    assert found["coupling=generator(mu=0.3)"].verdict == "better"


def test_at_equal_time_a_slow_arm_is_compared_with_what_the_reference_had_then(load, study_folder):
    state, _ = run(load(), study_folder, GAPS)
    plan = Plan.from_dict(state.ablation)
    slow = next(r for r in state.trials.values() if "generator" in r.arm and r.seed == 0)
    reference = next(r for r in state.trials.values() if r.arm == "baseline" and r.seed == 0)
    budget = reference.results[-1].metrics["cost/train_seconds"]  # the slow arm has seen half the images by then
    assert score_at(slow, "eval/fid", "cost/train_seconds", budget) == pytest.approx(
        slow.results[0].metrics["eval/fid"]
    )
    by_name = {one.contrast.name: one for one in outcomes(plan, state, "cost/train_seconds")}
    assert by_name["coupling=generator(mu=0.3)"].verdict == "worse"
    same = {one.contrast.name: one for one in outcomes(plan, state, "cost/forward_units")}
    assert same["coupling=generator(mu=0.3)"].verdict == "better"


def test_between_evaluations_a_curve_is_a_power_law(load, study_folder):
    state, _ = run(load(), study_folder, GAPS)
    record = next(iter(state.trials.values()))
    last = record.results[-1].metrics["eval/fid"]
    assert score_at(record, "eval/fid", "images", 1200) == pytest.approx(last * 1600 / 1200)  # made as 1 / images


# The plan


def test_a_plan_counts_trainings_and_says_what_the_seeds_can_tell(load, monkeypatch):
    monkeypatch.setattr("gcsearch.tuning.ablation_plan.measure", lambda experiment, device: (0.5, 0.01))
    plan = plan_ablation(load())
    assert plan.num_trainings == 4 * 3
    assert set(plan.arm_seconds.values()) == {6_400 * 0.5}
    judged = 8 * 64 * 2  # rungs, samples, averaged and current weights
    assert plan.cost.device_hours == pytest.approx(12 * (6_400 * 0.5 + judged * 0.01) / 3600)
    low, high = plan.gap
    assert high == pytest.approx(2 * low)
    assert paired_power(low, 0.01, 3, 0.5, alpha=0.05 / 3) == pytest.approx(0.8)
    assert plan_ablation(load(seeds=[0, 1, 2, 3, 4])).gap[0] < low


@pytest.mark.parametrize("name", sorted(path.name for path in ABLATIONS.glob("*.yaml")))
@pytest.mark.parametrize("experiment", ["digits", "gaussians_1m2m", "gaussians_2m2m", "fashion_mnist", "cifar10"])
def test_every_shipped_ablation_builds_on_every_experiment(name, experiment):
    assert load_ablation(ABLATIONS / name, experiment=experiment).arms
