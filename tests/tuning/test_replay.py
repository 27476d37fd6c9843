"""The simulator: a study on a function, under virtual workers and time, cut off anywhere."""

from __future__ import annotations

import math
from datetime import datetime

import pytest

from gcsearch.errors import ConfigError
from gcsearch.ledger import ENDED, Ledger
from gcsearch.tuning.replay import METRIC, make_engine, simulate
from gcsearch.tuning.standings import Standings

SPACE = {
    "x": {"min": 0.0, "max": 1.0},
    "optimizer": {"values": [{"name": "sgd", "lr": {"min": 1e-4, "max": 1.0, "scale": "log"}}, "lion"]},
    "decay": {"min": 0, "max": 5, "when": {"optimizer": "lion"}},
}
ASHA = {"name": "asha", "min_images": 100, "factor": 3}
RULES = {
    "none": "none",
    "promotion": ASHA,
    "stopping": ASHA | {"variant": "stopping"},
    "hyperband": {"name": "hyperband", "min_images": 100},
    "median": {"name": "median", "min_images": 300, "min_trials": 3},
    "audit": ASHA | {"audit": 0.2},
}


def evaluate(params, images):
    if params["x"] > 0.6 and images > 100:
        return math.nan
    return (params["x"] - 0.3) ** 2 + 10 / images + 0.02 * params.get("decay", 0) + params.get("optimizer.lr", 0.0)


def run(stopping=ASHA, sampler="auto", function=evaluate, **changes):
    settings = {"goal": "minimize", "horizon_images": 900, "budget_images": 9000, "num_workers": 3, "seed": 0}
    return simulate(SPACE, {"sampler": sampler}, stopping, function, **settings | changes)


@pytest.mark.parametrize("rule", RULES)
def test_the_same_arguments_give_the_same_events_and_another_seed_others(rule):
    first = run(RULES[rule])
    assert run(RULES[rule]).events == first.events
    assert run(RULES[rule], seed=1).events != first.events


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_workers", [1, 3])
def test_cut_off_after_any_event_it_goes_on_as_if_it_had_not_been(rule, num_workers):
    whole = run(RULES[rule], num_workers=num_workers, budget_images=4500).events
    for length in range(0, len(whole) + 1, 5):
        again = run(RULES[rule], num_workers=num_workers, budget_images=4500, events=whole[:length])
        assert again.events == whole, f"cut off after event {length}: {whole[length - 1]}"


@pytest.mark.parametrize("rule", RULES)
def test_no_more_than_the_budget_is_seen_and_little_is_left(rule):
    ledger = run(RULES[rule])
    seen = 0
    for trial in ledger.trials:
        seen += max(event.get("images", 0) for event in ledger.events if event.get("trial") == trial)
    assert 9000 - 3 * 900 < seen <= 9000


@pytest.mark.parametrize("rule", RULES)
def test_every_trial_ends_and_none_runs_on_after_its_end(rule):
    ledger = run(RULES[rule])
    ended = set()
    for event in ledger.events:
        assert event.get("trial") not in ended
        if event["event"] == "trial_ended" and event["state"] in ENDED:
            ended.add(event["trial"])
    states = {record.state for record in ledger.trials.values()}
    assert "running" not in states
    assert "completed" in states
    assert ("stopped" in states) == (rule != "none")
    for record in ledger.state.of_state("completed"):
        assert record.images == 900


def test_workers_are_asynchronous_and_a_thousand_images_take_a_second():
    ledger = run("none", "random", lambda params, images: 1.0, num_workers=4, budget_images=7200)
    start = datetime.fromisoformat(ledger.events[0]["time"])
    ends = [(datetime.fromisoformat(record.ended) - start).total_seconds() for record in ledger.trials.values()]
    assert ends == [0.9] * 4 + [1.8] * 4
    times = [event["time"] for event in ledger.events]
    assert times == sorted(times)
    running = 0
    for event in ledger.events:
        running += (event["event"] == "trial_started") - (event["event"] == "trial_ended")
        assert running <= 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_diverged_trial_and_costs_what_it_saw(value):
    ledger = run("none", "random", lambda params, images: value, budget_images=4500)
    assert [record.state for record in ledger.trials.values()] == ["diverged"] * 5
    assert not any(event["event"] == "result" for event in ledger.events)


def test_maximising_is_minimising_the_negative():
    lower = run()
    higher = run(function=lambda params, images: -evaluate(params, images), goal="maximize")
    assert [record.params for record in higher.trials.values()] == [record.params for record in lower.trials.values()]
    assert [record.state for record in higher.trials.values()] == [record.state for record in lower.trials.values()]


def test_the_grid_of_evaluations_adds_to_the_rungs():
    def rungs(**changes):
        ledger = run(ASHA | {"audit": 1.0}, **changes)
        return [result.images for result in next(ledger.state.of_state("completed")).results]

    assert rungs() == [100, 300, 900]
    assert rungs(every_images=250) == [100, 250, 300, 500, 750, 900]
    assert rungs(every_images=2000) == [100, 300, 900]


def test_the_function_is_asked_once_for_each_result_and_the_table_is_not_built_between_rungs(monkeypatch):
    """Fifty trials of fifty evaluations: work grows with results, not with results times trials."""
    asked, looked_up = [], []
    original = Standings.scores
    monkeypatch.setattr(Standings, "scores", lambda *a: looked_up.append(1) or original(*a))
    ledger = simulate(
        {"x": {"min": 0.0, "max": 1.0}},
        {"sampler": "random"},
        {"name": "asha", "min_images": 600, "variant": "stopping"},
        lambda params, images: asked.append(images) or params["x"],
        goal="minimize",
        horizon_images=5000,
        every_images=100,
        budget_images=50 * 5000,
        num_workers=4,
        seed=0,
    )
    results = [event for event in ledger.events if event["event"] == "result"]
    assert len(asked) == len(results)
    at_rungs = sum(event["images"] in (600, 1800) for event in results)
    assert len(looked_up) <= 2 * at_rungs  # the rung itself and the one above


def test_the_ledger_reads_like_that_of_a_real_study():
    ledger = run()
    assert ledger.events[0]["objective"]["key"] == METRIC
    assert ledger.events[-1]["event"] == "study_ended"
    assert Ledger(ledger.events).trials == ledger.trials
    best = ledger.state.ranking(METRIC, lower_is_better=True)[0]
    assert best.state == "completed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"goal": "least"}, "goal must be minimize or maximize, got 'least'"),
        ({"num_workers": 0}, "num_workers must be at least 1, got 0"),
        ({"horizon_images": 0}, "horizon_images must be at least 1, got 0"),
        ({"stopping": {"name": "asha", "variant": "both"}}, "variant must be one of 'promotion', 'stopping'"),
        ({"stopping": "later"}, "unknown stopping 'later'"),
        ({"sampler": "clever"}, "unknown search sampler 'clever'"),
    ],
)
def test_mistakes_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        run(**change)


LATE = {
    "timesteps": {"values": ["fixed", "exponential"]},
    "mu": {"min": 0.0, "max": 1.0},
}


def late(params, images):
    """The exponential curriculum is far behind at the rungs and ahead at the end."""
    if params["timesteps"] == "fixed":
        return 1.0 + (params["mu"] - 0.5) ** 2
    return (3.0 if images < 900 else 0.5) + (params["mu"] - 0.5) ** 2


@pytest.mark.parametrize("variant", ["stopping", "promotion"])
def test_what_looks_bad_early_and_wins_late_is_kept_inside_its_own_kind(variant):
    def winners(within):
        rule = ASHA | {"variant": variant, "within": within}
        settings = {"goal": "minimize", "horizon_images": 900, "budget_images": 13_500, "num_workers": 4}
        found = []
        for seed in range(4):
            ledger = simulate(LATE, {"sampler": "auto"}, rule, late, seed=seed, **settings)
            found.append(ledger.state.ranking(METRIC, lower_is_better=True)[0].params["timesteps"])
        return found.count("exponential")

    assert winners("auto") == 4
    assert winners("none") < 4


def test_within_auto_means_the_timestep_schedule_if_it_is_searched():
    def within(space, rule):
        return make_engine(space, {}, rule, goal="minimize", horizon_images=900, seed=0).within

    assert within(LATE, ASHA) == "timesteps"
    assert within(SPACE, ASHA) is None
    assert within(LATE, ASHA | {"within": "none"}) is None
    assert within(SPACE, ASHA | {"within": "optimizer"}) == "optimizer"
