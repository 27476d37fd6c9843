"""The sampler `auto`: what it models, how far it trusts a rung, and that it is better than chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from threadpoolctl import threadpool_info, threadpool_limits

from gcsearch.tuning.samplers import Observation, RandomChooser, auto
from gcsearch.tuning.samplers.auto import RungAwareBO, rank_agreement
from gcsearch.tuning.samplers.neighbours import NeighbourChooser
from gcsearch.tuning.samplers.plain import RandomSampler
from gcsearch.tuning.samplers.rung_process import RungProcess
from gcsearch.tuning.space import FixedChooser

from .sampling import BASE, LINE, RUNGS, TREE, bowl, history_of, is_inside, observe, search, space_of, suggest


@pytest.mark.parametrize(
    "scores",
    [
        [],
        [{}],
        [{100: 1.0}],
        [{100: math.inf}],
        [dict.fromkeys(RUNGS, math.inf)] * 30,
        [{100: 1.0}] * 30,
        [{100: -1e300}, {100: 1e300}] * 10,
    ],
    ids=["empty", "no score", "one score", "one diverged", "all diverged", "all equal", "huge"],
)
@pytest.mark.parametrize("is_running", [False, True])
def test_degenerate_histories_give_a_suggestion_too(scores, is_running):
    sampler = RungAwareBO(min_observations=2, random_share=0.0)
    observations = [
        observe(TREE.draw(RandomChooser(5, number), BASE)[0], one, is_running) for number, one in enumerate(scores)
    ]
    for number in range(len(scores), len(scores) + 5):
        is_inside(suggest(sampler, observations, 0, number))


def with_scores(seed, count, rungs_reached, space=TREE):
    random = np.random.default_rng(seed)
    drawn = [space.draw(RandomChooser(seed, number), BASE)[0] for number in range(count)]
    return [
        observe(params, {rung: float(random.normal()) for rung in RUNGS[: rungs_reached(number)]}, space=space)
        for number, params in enumerate(drawn)
    ]


def rescaled(observations, scales):
    """The same trials with scores factor * score + shift, by rung."""
    return [
        Observation(
            drawn=one.drawn,
            scores={at: scales[at][0] * score + scales[at][1] for at, score in one.scores.items()},
            is_running=False,
        )
        for one in observations
    ]


def test_the_unit_of_scores_does_not_matter_at_any_rung():
    sampler = RungAwareBO(random_share=0.0)
    observations = with_scores(0, 30, lambda number: 3 if number < 4 else 2)
    before = [suggest(sampler, observations, 0, number) for number in range(30, 40)]
    scales = {100: (4.0, 0.0), 300: (0.5, 0.0), 900: (2.0, 0.0)}
    assert [suggest(sampler, rescaled(observations, scales), 0, number) for number in range(30, 40)] == before


def test_the_model_takes_one_thread_and_leaves_the_limit_as_it_was(monkeypatch):
    def blas_threads():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    seen = []

    class Watched(RungProcess):
        def __init__(self, observed):
            seen.append(blas_threads())
            super().__init__(observed)

    monkeypatch.setattr(auto, "RungProcess", Watched)
    observations = with_scores(0, 30, lambda number: 3)
    with threadpool_limits(2, user_api="blas"):
        for number in range(30, 35):
            suggest(RungAwareBO(random_share=0.0), observations, 0, number)
        RungAwareBO().expected(history_of(observations))
        assert blas_threads() == {2}
    assert len(seen) > 1
    assert set.union(*seen) == {1}


def test_a_rung_of_better_scores_does_not_make_its_trials_better():
    """Scores fall while a training goes on: that those of a higher rung are lower says nothing about its trials."""
    sampler = RungAwareBO(random_share=0.0)
    observations = with_scores(0, 30, lambda number: 3 if number < 9 else 1)
    before = [suggest(sampler, observations, 0, number)["x"] for number in range(30, 50)]
    lower = rescaled(observations, {100: (1.0, 0.0), 300: (1.0, -64.0), 900: (1.0, -1024.0)})
    assert [suggest(sampler, lower, 0, number)["x"] for number in range(30, 50)] == pytest.approx(before, abs=1e-6)


def test_scores_of_every_rung_count():
    sampler = RungAwareBO(random_share=0.0)
    observations = with_scores(0, 30, lambda number: 3 if number < 12 else 2)
    before = [suggest(sampler, observations, 0, number) for number in range(30, 40)]
    for rung in (300, 900):
        flipped = rescaled(observations, dict.fromkeys(RUNGS, (1.0, 0.0)) | {rung: (-1.0, 0.0)})
        assert [suggest(sampler, flipped, 0, number) for number in range(30, 40)] != before


def test_a_rung_is_modelled_from_its_eighth_score_on():
    sampler = RungAwareBO(random_share=0.0)
    random = [suggest(RandomSampler(), [], 0, number) for number in range(20, 26)]
    for count, is_random in ((7, True), (8, False)):
        observations = with_scores(1, count, lambda _: 1)
        assert ([suggest(sampler, observations, 0, number) for number in range(20, 26)] == random) == is_random


def test_diverged_trials_alone_do_not_make_a_rung_worth_modelling():
    sampler = RungAwareBO(random_share=0.0)
    good = with_scores(2, 20, lambda _: 1)
    diverged = [
        Observation(drawn=one.drawn, scores=dict.fromkeys(RUNGS, math.inf), is_running=False)
        for one in with_scores(3, 20, lambda _: 0)
    ]
    flipped = [Observation(drawn=o.drawn, scores={100: -o.scores[100]}, is_running=False) for o in good]
    before = [suggest(sampler, good + diverged, 0, number) for number in range(40, 50)]
    assert [suggest(sampler, flipped + diverged, 0, number) for number in range(40, 50)] != before


def further(early, late, rung=300):
    """Trials with a score at 100 and one at a later rung."""
    params = [TREE.draw(RandomChooser(6, number), BASE)[0] for number in range(len(early))]
    return [observe(one, {100: a, rung: b}) for one, a, b in zip(params, early, late, strict=True)]


def agreement(observations, rung, within=None):
    return rank_agreement(history_of(observations, within=within), rung)


def test_rank_agreement_is_kendalls_tau_with_four_pairs_added():
    random = np.random.default_rng(0)
    early = random.normal(size=12)
    late = early + random.normal(size=12)
    pairs = 12 * 11 / 2
    expected = (stats.kendalltau(early, late).statistic * pairs + 2) / (pairs + 4)
    assert agreement(further(early, late), 100) == pytest.approx(expected)
    assert agreement(further(early, late)[:1], 100) == 0.5
    assert agreement(further(early, -early), 100) == 0.0


def test_trials_are_compared_at_the_highest_rung_that_both_have():
    one, two = further([1.0, 2.0], [2.0, 1.0])
    higher = Observation(drawn=one.drawn, scores=one.scores | {900: -9.0}, is_running=False)
    assert agreement([higher, two], 100) == agreement([one, two], 100) == pytest.approx((3 - 2) / 5)
    both = Observation(drawn=two.drawn, scores=two.scores | {900: 0.0}, is_running=False)
    assert agreement([higher, both], 100) == pytest.approx((4 - 1) / 5)


def test_of_a_trial_that_diverged_later_the_rank_counts_too():
    assert agreement(further([1.0, 2.0], [5.0, math.inf]), 100) == pytest.approx((4 - 1) / 5)
    assert agreement(further([1.0, 2.0], [math.inf, math.inf]), 100) == 0.5


def test_only_trials_of_one_group_are_compared():
    early = [1.0, 2.0, 3.0, 11.0, 12.0, 13.0]  # one kind is far behind early and ahead late
    late = [21.0, 22.0, 23.0, 1.0, 2.0, 3.0]
    trials = further(early, late)
    kinds = [TREE.draw(FixedChooser({"tree.kind": kind}), BASE)[0] for kind in "aaaccc"]
    trials = [observe(params, one.scores) for params, one in zip(kinds, trials, strict=True)]
    assert agreement(trials, 100) == pytest.approx((3 + 6 - 1 - 9) / 19, abs=0.06)
    assert agreement(trials, 100, within="tree.kind") == pytest.approx((3 + 6 - 1) / 10)


def late_winners(finished):
    """Kind c looks bad at the first rung; as many trials of each kind as asked for have reached the last one."""
    kinds = {"a": 1.0, "c": 9.0}
    drawn = [TREE.draw(FixedChooser({"tree.kind": "ac"[n % 2]}, RandomChooser(8, n)), BASE)[0] for n in range(24)]
    last = {900: {"a": 1.0, "c": 0.0}}
    found = []
    for params in drawn:
        kind, miss = params["tree.kind"], (params["x"] - 0.3) ** 2
        scores = {100: kinds[kind] + miss, 300: kinds[kind] + miss}
        if finished.get(kind, 0) > 0:
            finished = finished | {kind: finished[kind] - 1}
            scores[900] = last[900][kind] + miss
        found.append(observe(params, scores))
    return found


@pytest.mark.parametrize(("finished", "within"), [({"a": 5}, "tree.kind"), ({"a": 5}, None)])
def test_groups_are_suggested_from_by_chance_until_each_has_a_full_training(finished, within):
    sampler = RungAwareBO(random_share=0.0, min_observations=4)
    known = late_winners(finished)
    kinds = [suggest(sampler, known, 0, number, within=within)["tree.kind"] for number in range(24, 84)]
    assert (kinds.count("c") > 10) == (within is not None)


def test_groups_are_compared_once_each_has_full_trainings():
    sampler = RungAwareBO(random_share=0.0, min_observations=4)
    known = late_winners({"a": 5, "c": 5})
    kinds = [suggest(sampler, known, 0, number, within="tree.kind")["tree.kind"] for number in range(24, 84)]
    assert kinds.count("c") > 2 * kinds.count("a")


def test_what_is_expected_at_the_horizon_ranks_better_than_a_rung_that_misleads():
    """y only slows a training down: it rules the first rung and does not matter in the end."""
    drawn = [LINE.draw(RandomChooser(9, number), BASE)[0] for number in range(40)]
    final = [(params["x"] - 0.3) ** 2 for params in drawn]
    early = [at + params["y"] for at, params in zip(final, drawn, strict=True)]
    known = [
        observe(params, {100: e} | ({300: (e + f) / 2, 900: f} if number % 3 == 0 else {}), space=LINE)
        for number, (params, e, f) in enumerate(zip(drawn, early, final, strict=True))
    ]
    expected = RungAwareBO().expected(history_of(known, number=40, space=LINE))
    waiting = [number for number in range(40) if number % 3]

    def tau(scores):
        return stats.kendalltau([scores[n] for n in waiting], [final[n] for n in waiting]).statistic

    assert tau(early) < 0.4
    assert tau(expected) > 0.8
    assert RungAwareBO().expected(history_of(known[:7], space=LINE)) is None


def test_a_rung_that_ranks_wrongly_is_not_modelled():
    early = list(np.random.default_rng(1).normal(size=7))
    random = [suggest(RandomSampler(), [], 0, number) for number in range(20, 40)]
    start = with_scores(1, 10, lambda _: 1)
    misled = [suggest(RungAwareBO(), start + further(early, [-one for one in early]), 0, n) for n in range(20, 40)]
    trusted = [suggest(RungAwareBO(), start + further(early, early), 0, n) for n in range(20, 40)]
    assert misled == random
    assert sum(one != other for one, other in zip(trusted, random, strict=True)) > 5


def test_the_model_is_asked_less_often_when_scores_repeat():
    sampler = RungAwareBO(random_share=0.0)
    random = [suggest(RandomSampler(), [], 0, number) for number in range(40, 140)]
    drawn = [TREE.draw(RandomChooser(8, number), BASE)[0] for number in range(40)]
    table = [observe(params, {900: float(number % 10)}) for number, params in enumerate(drawn)]
    modelled = [suggest(sampler, table, 0, n) != r for n, r in zip(range(40, 140), random, strict=True)]
    assert 0.12 < np.mean(modelled) < 0.4  # 10 of 40 scores differ


def test_a_neighbour_differs_in_something_and_lies_inside():
    for number in range(300):
        params = TREE.draw(RandomChooser(9, number), BASE)[0]
        center = observe(params, {})
        moved = TREE.draw(NeighbourChooser(center, np.random.default_rng(number)), BASE)[0]
        is_inside(moved)
        assert any(
            value != pytest.approx(params.get(key)) if isinstance(value, float) else value != params.get(key)
            for key, value in moved.items()
        )


def test_the_share_of_random_trials_is_what_it_says():
    observations = with_scores(4, 20, lambda _: 3)
    random = [suggest(RandomSampler(), [], 0, number) for number in range(20, 170)]
    auto = [suggest(RungAwareBO(random_share=0.25), observations, 0, number) for number in range(20, 170)]
    share = sum(one == other for one, other in zip(auto, random, strict=True)) / 150
    assert 0.15 < share < 0.35
    assert [suggest(RungAwareBO(random_share=1.0), observations, 0, n) for n in range(20, 170)] == random


@pytest.fixture(scope="module")
def on_a_quadratic():
    """Best score of 40 trials on each of 20 seeds: of `auto`, and of random trials."""
    samplers = (RungAwareBO(), RandomSampler())
    return tuple([min(search(sampler, bowl, seed, 40)[0]) for seed in range(20)] for sampler in samplers)


@pytest.mark.slow
def test_auto_beats_random_on_a_quadratic_over_20_seeds(on_a_quadratic):
    auto, random = on_a_quadratic
    assert np.mean(auto) < 0.5 * np.mean(random)
    assert sum(a < r for a, r in zip(auto, random, strict=True)) >= 14


@pytest.mark.slow
def test_auto_halves_random_s_typical_score_on_a_quadratic(on_a_quadratic):
    auto, random = on_a_quadratic
    assert np.log(auto).mean() < np.log(0.5 * np.array(random)).mean()
    assert np.mean(auto) < np.mean(random)


@pytest.mark.slow
def test_auto_suggests_good_regions_more_often_than_random():
    scores = [np.mean(search(RungAwareBO(), bowl, seed, 40)[0][20:]) for seed in range(8)]
    random = [np.mean(search(RandomSampler(), bowl, seed, 40)[0][20:]) for seed in range(8)]
    assert np.mean(scores) < 0.6 * np.mean(random)


def cliff(params):
    return math.inf if params["x"] > 0.4 else 0.1 + 0.01 * params["y"]


def test_a_region_that_diverges_is_avoided_though_the_rest_is_flat():
    def share(sampler):
        drawn = [params for seed in range(6) for params in search(sampler, cliff, seed, 40)[1][16:]]
        return np.mean([params["x"] > 0.4 for params in drawn])

    assert share(RungAwareBO()) < 0.7 * share(RandomSampler())


def test_running_trials_are_not_suggested_again():
    """Several suggestions for the same knowledge spread out, because those under way are known."""
    sampler, known = RungAwareBO(random_share=0.0), []
    for number in range(30):
        params = suggest(RandomSampler(), [], 1, number, LINE)
        known.append(observe(params, {900: bowl(params)}, space=LINE))

    def spread(is_told):
        observations, points = list(known), []
        for number in range(30, 50):
            params = suggest(sampler, observations, 0, number, LINE)
            points.append((params["x"], params["y"]))
            if is_told:
                observations.append(observe(params, {}, is_running=True, space=LINE))
        return float(np.std(np.array(points), axis=0).mean())

    assert spread(True) > spread(False)


def test_random_is_uniform_and_log_uniform():
    draws = [suggest(RandomSampler(), [], 0, number) for number in range(2000)]
    assert stats.kstest([params["x"] for params in draws], "uniform").pvalue > 0.01
    lr = [math.log(params["lr"] / 1e-5) / math.log(1e4) for params in draws]
    assert stats.kstest(lr, "uniform").pvalue > 0.01
    kinds = [params["tree.kind"] for params in draws]
    assert stats.chisquare([kinds.count(kind) for kind in "abc"]).pvalue > 0.01
    depths = [params["tree.kind.depth"] for params in draws if params["tree.kind"] == "a"]
    assert stats.chisquare([depths.count(depth) for depth in range(1, 6)]).pvalue > 0.01
    assert {params["width"] for params in draws} <= set(range(1, 65))


def test_random_integers_on_a_log_scale_reach_both_ends():
    widths = [suggest(RandomSampler(), [], 0, number)["width"] for number in range(2000)]
    assert min(widths) == 1
    assert max(widths) == 64


@pytest.mark.parametrize(
    "bad",
    [
        {"min_observations": 1},
        {"random_share": -0.1},
        {"random_share": 1.1},
        {"num_candidates": 3},
    ],
)
def test_meaningless_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        RungAwareBO(**bad)


def test_nothing_is_suggested_twice_while_there_is_something_new():
    space = space_of({"kind": {"values": ["a", "b", "c"]}, "depth": {"min": 1, "max": 4}})
    sampler, known, seen = RungAwareBO(random_share=0.0, min_observations=2), [], []
    for number in range(12):
        params = suggest(sampler, known, 0, number, space)
        if number >= 3 and params != suggest(RandomSampler(), known, 0, number, space):
            assert params not in seen
        seen.append(params)
        known.append(observe(params, {900: params["depth"] + 0.01 * number}, space=space))
