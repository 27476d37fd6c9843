"""Studies of several objectives: what is refused, how rungs are judged, who is trained again, and resuming."""

from __future__ import annotations

import math

import pytest

from gcsearch.errors import ConfigError
from gcsearch.fronts import by_front, by_place, fronts
from gcsearch.ledger import StudyState, read_events
from gcsearch.pareto import front_ranks
from gcsearch.selection import select
from gcsearch.tuning.recorded import as_run, replay
from gcsearch.tuning.replay import make_engine, simulate
from gcsearch.tuning.stopping import ASHA, NoStopping

TWO = [{"metric": "fid"}, {"metric": "train_seconds"}]
LINE = {"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0}}


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (
            [{"metric": "fid"}],
            r"study.yaml:3: objective must be one mapping, or a list of at least two, got a list of 1",
        ),
        ({"metric": "train_seconds"}, "the cheapest training alone is none at all"),
        ([{"metric": "train_seconds"}, {"metric": "fid"}], "A cost may be the second objective"),
        ([{"metric": "fid"}, {"metric": "train_second"}], "or a cost of training, got 'train_second'.*train_seconds"),
        ([{"metric": "fid"}, {"metric": "fid"}], "must name every metric once, 'fid' is there twice"),
        ([{"metric": "fid", "use": "best"}, {"metric": "train_seconds"}], "use must be last where there are several"),
        ([{"metric": "fid"}, {"metric": "train_seconds", "goal": "maximize"}], "must be minimize for train_seconds"),
        ([{"metric": "fid"}, {"metric": "fid_online", "aim": "low"}], "'objective.1' has no key 'aim'"),
        ([{"metric": "fid"}, {"metric": "train/loss"}], "training loss is not comparable"),
    ],
)
def test_mistakes_are_named(make_study, objective, words):
    with pytest.raises(ConfigError, match=words):
        make_study(objective=objective)


def test_one_objective_is_recorded_as_ever_and_of_several_the_first_is_too(make_study):
    one, two = make_study(objective=TWO[0]), make_study(objective=TWO)
    assert "objectives" not in one.opening()
    assert one.identity()["objective"]["metric"] == "fid"
    assert [each["metric"] for each in two.identity()["objective"]] == ["fid", "train_seconds"]
    assert two.opening()["objective"] == one.opening()["objective"] == two.opening()["objectives"][0]
    assert two.opening()["objectives"][1]["key"] == "cost/train_seconds"


# How rungs are judged


def engine(stopping, goal=("minimize", "minimize")):
    return make_engine(LINE, {"sampler": "random"}, stopping, goal=goal, horizon_images=900, seed=0)


def reached(scores, images=100):
    """Trials that have come to a rung one after the other."""
    time, events = "2026-01-01T00:00:00+00:00", []
    for number, values in enumerate(scores):
        base = {"time": time, "trial": f"{number:04d}"}
        metrics = {f"eval/score_{index}": value for index, value in enumerate(values)}
        events.append({"event": "trial_started", "kind": "trial", "params": {"x": 0.5, "y": 0.5}} | base)
        events.append({"event": "result", "images": images, "metrics": metrics} | base)
    return StudyState(events)


STOPPING = {"name": "asha", "variant": "stopping", "min_images": 100, "factor": 3}


def test_a_trial_that_others_dominate_is_stopped_and_one_that_nothing_dominates_goes_on():
    others = [(1.0, 5.0), (2.0, 4.0), (3.0, 3.0), (4.0, 6.0), (5.0, 5.0), (6.0, 7.0), (7.0, 8.0), (8.0, 9.0)]
    dominated, not_dominated = (2.0, 6.0), (9.0, 1.0)
    for last, is_stopped in ((dominated, True), (not_dominated, False)):
        state = reached([*others, last])
        assert engine(STOPPING).decide(state, state.trials["0008"]).stop == is_stopped
    upside_down = reached([(a, -b) for a, b in [*others, not_dominated]])
    assert not engine(STOPPING, ("minimize", "maximize")).decide(upside_down, upside_down.trials["0008"]).stop


def test_those_that_go_on_from_a_front_are_its_ends_and_what_lies_between():
    """Nine trials of which none dominates another: of a third, one end goes on, the other end, and the middle."""
    state = reached([(float(place), float(8 - place)) for place in range(9)])
    rule = engine({"name": "asha", "min_images": 100, "factor": 3})
    time = {"time": "2026-01-01T00:00:00+00:00"}
    for trial, record in state.trials.items():
        assert rule.decide(state, record).pause
        state.apply({"event": "trial_ended", "trial": trial, "state": "interrupted", "paused": True} | time)
    promoted = []
    for _ in range(3):
        promoted.append(rule.next(state, promoted).trial)
        state.apply({"event": "trial_started", "trial": promoted[-1], "kind": "trial"} | time)
    assert promoted == ["0000", "0008", "0004"]


def two_scores(params, images):
    """A front between x = 0.2 and x = 0.8, better with training; a corner diverges."""
    if params["x"] > 0.9 and images > 100:
        return (math.nan, 0.0)
    level = params["y"] + 100 / images
    return ((params["x"] - 0.2) ** 2 + level, (params["x"] - 0.8) ** 2 + level)


def play(stopping="none", sampler="auto", seed=0, budget=27_000, **other):
    return simulate(
        LINE,
        {"sampler": sampler},
        stopping,
        two_scores,
        goal=["minimize", "minimize"],
        horizon_images=900,
        budget_images=budget,
        num_workers=2,
        seed=seed,
        **other,
    )


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_a_simulated_study_goes_on_from_anywhere_with_the_same_decisions(rule):
    stopping = {"name": rule, "min_images": 100}
    whole = play(stopping, budget=8_000, seed=7).events
    assert any(event.get("state") == "diverged" for event in whole)
    for cut in range(0, len(whole), 31):
        assert play(stopping, budget=8_000, seed=7, events=whole[:cut]).events == whole


def hypervolume(ledger):
    """Area that the completed trials dominate, below (1.5, 1.5)."""
    points = [
        tuple(record.results[-1].metrics[f"eval/score_{index}"] for index in (0, 1))
        for record in ledger.state.of_state("completed")
    ]
    area, level = 0.0, 1.5
    for x, y in sorted(points):
        if x < 1.5 and y < level:
            area, level = area + (1.5 - x) * (level - y), y
    return area


def test_auto_covers_the_front_better_than_chance():
    auto, random = ([hypervolume(play(sampler=name, seed=seed)) for seed in range(6)] for name in ("auto", "random"))
    assert sum(auto) > sum(random)
    assert sum(a > r for a, r in zip(auto, random, strict=True)) >= 5


def test_replay_says_that_it_takes_one_objective():
    ledger = play()
    for function in (lambda: replay(ledger.events, ASHA()), lambda: replay(ledger.events, NoStopping())):
        with pytest.raises(Exception, match="not one number for eval/score_0 and eval/score_1"):
            function()
    with pytest.raises(Exception, match="takes studies of one objective"):
        as_run(ledger.state)


# A driver's study


def seconds(params, images):
    """Costs more where FID is lower: large mu is cheap."""
    return images / 100 * (2 - params["coupling.mu"])


@pytest.fixture
def front_study(load):
    """A study of two objectives without stopping, whose finalists are trained on two seeds."""
    finalists = {"top": 3, "seeds": [1, 2], "num_samples": 64}
    return load(objective=TWO, stopping={"name": "none"}, budget={"trials": 14}, finalists=finalists)


def test_finalists_are_spread_over_the_front_and_decided_on_means(front_study, run, tmp_path, quick_disk):
    state = run(front_study, tmp_path, seconds=seconds)
    number = fronts(state)
    losses = {trial: [state.trials[trial].value(key) for key in ("eval/fid", "cost/train_seconds")] for trial in number}
    assert [number[trial] - 1 for trial in number] == front_ranks(list(losses.values())).tolist()
    front = [trial for trial in number if number[trial] == 1]
    assert len(front) >= 3
    chosen = state.finalists["candidates"]
    assert chosen == [record.trial for record in by_place(state)][:3]
    assert set(chosen) <= set(front)
    assert chosen[0] == min(front, key=lambda trial: losses[trial][0]) == by_front(state)[0].trial

    selection = select(state)
    assert selection.winner is None
    assert selection.weights is None
    assert selection.is_final
    means = {one.candidate: [interval.mean for interval in one.intervals] for one in selection.recipes}
    assert set(selection.front) == {
        one for one, rank in zip(means, front_ranks(list(means.values())), strict=True) if rank == 0
    }
    assert set(selection.front) <= set(selection.ties)
    assert all(len(one.values) == len(one.others[0]) == 2 for one in selection.recipes)


def test_a_killed_study_of_two_objectives_goes_on_with_the_same_decisions(
    load, run, outcome, killed, tmp_path, quick_disk, check_ledger
):
    study = load(objective=TWO, budget={"trials": 7})
    whole = outcome(run(study, tmp_path / "whole", seconds=seconds))
    for stop_after in range(4, 60, 9):
        folder, checkpoints = tmp_path / f"cut{stop_after}", {}
        try:
            run(study, folder, checkpoints, stop_after=stop_after, seconds=seconds)
        except killed:
            run(study, folder, checkpoints, seconds=seconds)
        check_ledger(folder)
        assert outcome(StudyState(read_events(folder / "ledger.jsonl"))) == whole
