"""The path from a baseline to a winner: greedy, tested at every step, resumed, with its error rate kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gcsearch.ablations import Plan, outcomes
from gcsearch.analysis.ablation import ablation_results, path_text
from gcsearch.analysis.report.ablation_answer import ablation_answer
from gcsearch.analysis.results import open_results
from gcsearch.errors import ConfigError
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.tuning.ablation import load_ablation
from gcsearch.tuning.ablation_plan import plan_ablation
from gcsearch.tuning.path import PathDriver, shares, walk

FACTORS = {"coupling": ["independent"], "optimizer.lr": [1e-3], "timesteps.num_levels": [10]}
IDENTITY = (
    "metric=fid | extractor=digits@1 | reference=digits@2 x1797 | num_samples=64 | sampler=one_step | "
    "quantisation=clip_round_uint8"
)
EFFECTS = {"coupling=independent": -1.0, "optimizer.lr=0.001": -3.0, "timesteps.num_levels=10": 0.0}


@pytest.fixture
def load(study_file, tmp_path):
    """Loads a path with these sections."""

    def make(**sections):
        study_file("name: unused\n")
        sections = {"experiment": "tiny", "design": "path", "seeds": [0, 1, 2]} | sections
        if "winner" not in sections:
            sections = {"factors": FACTORS} | sections
        path = tmp_path / "ablation.yaml"
        path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in sections.items()))
        return load_ablation(path)

    return make


def score(arm, seed, effects, noise=0.1):
    own = np.random.default_rng([seed, *arm.encode()]).normal()
    shared = np.random.default_rng([seed, 7]).normal()
    return 20 + sum(effect for name, effect in effects.items() if name in arm) + noise * (shared + 0.3 * own)


def events_of(trial, value):
    """What a training leaves in the ledger after its start."""
    costs = {"cost/train_seconds": 60.0, "cost/forward_units": 6_400.0}
    result = {"images": 6_400, "metrics": {"eval/fid": value} | costs, "identities": {"eval/fid": IDENTITY}}
    return [
        {"event": "result", "trial": trial} | result,
        {"event": "trial_ended", "trial": trial, "state": "completed"},
    ]


def run(ablation, directory, effects=EFFECTS, *, stop_after=10_000):
    """All trainings, two at a time, with made-up scores."""
    started = []
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        driver = PathDriver(ablation, directory, ledger, StudyState(read_events(directory / LEDGER_NAME)))
        driver.write("study_started", study="a", **ablation.opening(), **driver.opening())
        running = []
        while True:
            while len(running) < 2 and (record := driver.next_trial()):
                running.append(record)
                started.append(record.trial)
            if not running or len(started) > stop_after:
                break
            record = running.pop(0)
            for event in events_of(record.trial, score(record.arm, record.seed, effects)):
                assert not driver.on_report(
                    record.trial,
                    {"result": event} if event["event"] == "result" else {"outcome": event | {"reason": None}},
                )
        if len(started) > stop_after:
            driver.interrupt()
        else:
            driver.finish()
        return driver.state, started


@pytest.fixture
def home(tmp_path, quick_disk):
    (tmp_path / "study").mkdir()
    return tmp_path / "study"


def test_the_best_change_is_taken_first_and_the_path_ends_where_nothing_is_better(load, home):
    state, started = run(load(), home)
    plan = Plan.from_dict(state.ablation)
    found = {one.contrast.name: one for one in outcomes(plan, state)}
    assert list(found) == [
        "step 1: coupling=independent",
        "step 1: optimizer.lr=0.001",
        "step 1: timesteps.num_levels=10",
        "step 2: coupling=independent",
        "step 2: timesteps.num_levels=10",
        "step 3: timesteps.num_levels=10",
    ]
    assert [one.contrast.step for one in found.values() if one.is_taken] == [0, 1]
    assert found["step 1: optimizer.lr=0.001"].is_taken
    assert found["step 1: coupling=independent"].verdict == "better"  # but not the best
    assert found["step 2: coupling=independent"].is_taken
    assert found["step 3: timesteps.num_levels=10"].verdict != "better"
    for one in found.values():
        assert (one.verdict in ("better", "worse")) == (one.judgement.p_adjusted <= 0.05)
    assert len(started) == len(set(started)) == (4 + 3 + 2) * 3
    assert state.ended


def test_every_step_has_seeds_of_its_own_for_its_reference_too(load, home):
    state, _ = run(load(), home)
    plan = Plan.from_dict(state.ablation)
    assert [step.seeds for step in plan.steps] == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
    arms: dict[str, set[int]] = {}
    for record in state.trials.values():
        arms.setdefault(record.arm, set()).add(record.seed)
    assert arms["baseline"] == {0, 1, 2}
    assert arms["optimizer.lr=0.001"] == {0, 1, 2, 3, 4, 5}  # taken in step 1, the reference of step 2
    recipes = {record.recipe for record in state.trials.values() if record.arm == "optimizer.lr=0.001"}
    assert len(recipes) == 1


def test_an_interrupted_path_goes_on_and_ends_the_same(load, home, tmp_path):
    whole, _ = run(load(), home)
    folder = tmp_path / "other"
    folder.mkdir()
    for stop_after in (5, 8, 6):
        run(load(), folder, stop_after=stop_after)
    state, _ = run(load(), folder)
    assert set(state.trials) == set(whole.trials)
    assert state.ablation == whole.ablation
    plan = Plan.from_dict(state.ablation)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert [one.to_dict() for one in outcomes(plan, state)] == [one.to_dict() for one in outcomes(plan, whole)]


@pytest.mark.parametrize(
    ("effects", "trainings", "text"),
    [
        ({}, 4 * 3, "Path: baseline. It ends there: of what is left"),
        ({name: -2.0 - place for place, name in enumerate(EFFECTS)}, 9 * 3, "Every change was taken."),
    ],
)
def test_a_path_may_go_nowhere_or_to_the_winner(load, home, effects, trainings, text):
    _, started = run(load(), home, effects)
    assert len(started) == trainings
    results = open_results(home)
    found = ablation_results(results)
    assert text in path_text(found)
    assert ablation_answer(results, found).headline == path_text(found)


def test_parts_of_the_error_rate_add_up_and_are_equal_for_all_contrasts():
    for num in (1, 2, 5):
        assert sum(shares(num)) == pytest.approx(1)
        assert len({round(share / (num - step), 12) for step, share in enumerate(shares(num))}) == 1


@pytest.mark.slow
def test_false_steps_are_rare(load, monkeypatch):
    """One change helps by as much as is found half the time; whoever takes another one is wrong."""
    monkeypatch.setattr("gcsearch.ablations.bootstrap_interval", lambda pairs: None)
    ablation = load(seeds=[0, 1, 2, 3, 4])
    opening = {"event": "study_started", "time": "2026-01-01T00:00:00+00:00", "study": "a", **ablation.opening()}
    helps, num, false, right = "optimizer.lr=0.001", 400, 0, 0
    random = np.random.default_rng(0)
    for _ in range(num):
        state = StudyState([opening])
        found = walk(ablation, state)
        while True:
            for seed in found.plan.steps[-1].seeds:
                shared = random.normal()
                for arm in found.current:
                    value = 20 + 0.26 * (shared + random.normal()) / 2**0.5 - 0.9 * (helps in arm.name)
                    trial = f"{[one.name for one in found.arms].index(arm.name):02d}-s{seed}"
                    started = {"event": "trial_started", "trial": trial, "kind": "arm", "arm": arm.name, "seed": seed}
                    for event in [started, *events_of(trial, value)]:
                        state.apply({"time": opening["time"]} | event)
            further = walk(ablation, state)
            if further.plan == found.plan:
                break
            found = further
        taken = [one.contrast.name.split(": ")[1] for one in outcomes(found.plan, state) if one.is_taken]
        false += any(name != helps for name in taken)
        right += helps in taken
    assert false / num <= 0.05 + 2.6 * (0.05 * 0.95 / num) ** 0.5
    assert 0.2 < right / num < 0.98  # else steps after the first would hardly be looked at, or all of them


# Files


def test_the_way_to_a_winner_is_what_it_does_otherwise(load, tmp_path):
    (tmp_path / "best.yaml").write_text(
        "name: best\nseed: 4\ndata: {name: digits}\nnetwork: {name: mlp, width: 16}\n"
        "timesteps: {name: exponential, s0: 10, s1: 40}\ncoupling: {name: generator, mu: 0.8, predictor: ema}\n"
        "optimizer: {name: lion, lr: 5e-4}\ntraining: {num_images: 12_800, batch_size: 32}\n"
        "evaluation: {every_images: 6_400}\n"
    )
    ablation = load(winner="best.yaml")
    assert ablation.factors == {
        "timesteps": [{"name": "exponential", "s1": 40}],
        "coupling.mu": [0.8],
        "training.batch_size": [32],
    }
    everything = {key: values[0] for key, values in ablation.factors.items()}
    last = walk(ablation, StudyState([])).current[-1]
    assert set(last.values) < set(everything)
    assert ablation.experiment_of(last, 0).training.num_images == 6_400


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"factors": {"coupling.mu": [0.1, 0.2]}}, "design path needs one value of each factor, got 2 of coupling.mu"),
        ({"max_seeds": 8}, "ablation.yaml:5: a path judges every step once"),
        ({"winner": "tiny"}, "ablation.yaml:4: the winner must differ from the baseline, but is the same recipe"),
        ({"winner": "tine"}, "ablation.yaml:4: .*no file tine.yaml"),
        ({"winner": "tiny", "design": "grid"}, "winner must stand for the factors of design path"),
        ({"winner": "tiny", "factors": FACTORS}, "winner must stand for the factors of design path"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line_with_its_place(load, sections, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(**sections)
    assert "\n" not in str(caught.value)


def test_a_path_does_not_add_seeds(load):
    with pytest.raises(ConfigError, match="--until-decided means nothing to it"):
        load().plan(is_sequential=True)


def test_a_plan_counts_the_longest_path(load, monkeypatch):
    monkeypatch.setattr("gcsearch.tuning.ablation_plan.measure", lambda experiment, device: (0.5, 0.01))
    plan = plan_ablation(load())
    assert (plan.num_first, plan.num_trainings, plan.num_judged) == (4 * 3, 9 * 3, 6)
    judged = 8 * 64 * 2  # rungs, samples, averaged and current weights
    assert plan.cost.device_hours == pytest.approx(27 * (6_400 * 0.5 + judged * 0.01) / 3600)
