"""The process behind `auto`: its likelihood and posterior against textbook formulas, and what it learns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import gamma, kv
from scipy.stats import multivariate_normal

from gcsearch.tuning.samplers import History, RandomChooser
from gcsearch.tuning.samplers.observed import Encoder, common_scale, observe, spaced
from gcsearch.tuning.samplers.rung_process import (
    AMPLITUDE,
    FIT_POINTS,
    JITTER,
    LENGTH,
    NOISE,
    OFFSET_VARIANCE,
    SHARE,
    Kernel,
    Observed,
    RungProcess,
    likelihood,
)

from .sampling import BASE, RUNGS, TREE
from .sampling import observe as known

DIMENSIONS = np.array([0, 1, 2, 2])


def observed(count=40, seed=0, score=None, num_rungs=3):
    random = np.random.default_rng(seed)
    features = random.random((count, 4))
    rungs = random.integers(0, num_rungs, count)
    score = score or (lambda x, rung: math.sin(4 * x[0]) + 0.2 * rung * x[1])
    scores = np.array([score(x, rung) for x, rung in zip(features, rungs, strict=True)])
    return Observed(
        features=features,
        dimensions=DIMENSIONS,
        rungs=rungs,
        scores=scores + 0.05 * random.standard_normal(count),
        num_rungs=num_rungs,
    )


def matern(distance):
    """Smoothness 5/2 by the general formula with Bessel's function (Rasmussen and Williams, equation 4.14)."""
    scaled = math.sqrt(5) * max(distance, 1e-9)
    return 2 ** (1 - 2.5) / gamma(2.5) * scaled**2.5 * kv(2.5, scaled)


def covariance(kernel, left, left_rung, right, right_rung):
    """As in `Kernel`, one pair at a time."""
    apart = [math.dist(left / lengths[DIMENSIONS], right / lengths[DIMENSIONS]) for lengths in kernel.lengths]
    mixed = kernel.lasting * matern(apart[0])
    mixed += (
        (1 - kernel.lasting)
        * math.prod(kernel.kinships[min(left_rung, right_rung) : max(left_rung, right_rung)])
        * matern(apart[1])
    )
    return kernel.amplitudes[left_rung] * kernel.amplitudes[right_rung] * mixed


def full_covariance(kernel, data):
    places = list(zip(data.features, data.rungs, strict=True))
    matrix = np.array([[covariance(kernel, *one, *two) for two in places] for one in places])
    matrix += OFFSET_VARIANCE * (data.rungs[:, None] == data.rungs)
    return matrix + np.diag(kernel.noise * kernel.amplitudes[data.rungs] ** 2 + JITTER)


def some_theta(begin, seed=1):
    return begin + 0.4 * np.random.default_rng(seed).standard_normal(len(begin))


def test_the_likelihood_is_that_of_a_normal_distribution():
    data = observed(12)
    targets = (data.scores - data.scores.mean()) / data.scores.std()
    loss, begin = likelihood(data, targets)
    theta = some_theta(begin)
    widths = np.array([LENGTH] * 6 + [NOISE] + [SHARE] * 3 + [AMPLITUDE] * 2)
    kernel = Kernel.unpacked(theta, 3)
    log_density = multivariate_normal(np.zeros(12), full_covariance(kernel, data)).logpdf(targets)
    expected = -log_density - 6 * math.log(2 * math.pi) + 0.5 * (((theta - begin) / widths) ** 2).sum()
    assert loss(theta)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("num_rungs", [1, 3])
def test_its_gradient_is_a_finite_difference(num_rungs):
    data = observed(30, num_rungs=num_rungs)
    loss, begin = likelihood(data, data.scores - data.scores.mean())
    theta = some_theta(begin)
    steps = 1e-5 * np.eye(len(theta))
    numeric = [(loss(theta + step)[0] - loss(theta - step)[0]) / 2e-5 for step in steps]
    np.testing.assert_allclose(loss(theta)[1], numeric, rtol=1e-5, atol=1e-6)


def test_the_posterior_is_the_conditional_of_a_normal_distribution():
    data = observed(15)
    process = RungProcess(data)
    points = np.random.default_rng(2).random((5, 4))
    mean, deviation = process.posterior(points, 2)
    known_places = list(zip(data.features, data.rungs, strict=True))
    asked = [(place, 2) for place in (*points, *data.features)]
    cross = np.array([[covariance(process.kernel, *one, *two) for two in known_places] for one in asked])
    prior = np.array([[covariance(process.kernel, *one, *two) for two in asked] for one in asked])
    solved = np.linalg.solve(full_covariance(process.kernel, data), cross.T).T
    centred = data.scores - data.scores.mean()
    np.testing.assert_allclose(mean, data.scores.mean() + (solved @ centred)[:5], rtol=1e-6)
    np.testing.assert_array_equal(process.mean(points, 2), mean)
    contrast = np.eye(5, 20)
    contrast[:, 5:] -= 1 / 15  # less the average over the known places
    variance = np.diag(contrast @ (prior - solved @ cross.T) @ contrast.T)
    np.testing.assert_allclose(deviation, data.scores.std() * np.sqrt(variance), rtol=1e-4)


def test_a_rung_that_nobody_has_reached_leaves_no_common_doubt():
    """Its mean is unknown, but that of one place is no more unknown than that of another."""
    random = np.random.default_rng(7)
    features = random.random((40, 4))
    data = Observed(
        features=features, dimensions=DIMENSIONS, rungs=np.zeros(40, dtype=int), scores=features[:, 0], num_rungs=2
    )
    process = RungProcess(data)
    _, near = process.posterior(features[:5], 0)
    _, far = process.posterior(np.array([[0.5, 0.5, 5.0, 5.0]]), 0)
    assert near.max() < 0.3 * far.item()


def test_belief_moves_no_mean_and_narrows_what_is_near():
    process = RungProcess(observed())
    points = np.array([[0.5, 0.5, 3.0, 3.0], [0.5, 0.5, 3.1, 3.0], [0.2, 0.7, 0.3, 0.4]])  # two far from all known
    believed = process.believing(points[:1], 2)
    before, after = process.posterior(points, 2), believed.posterior(points, 2)
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    assert (after[1][:2] < 0.8 * before[1][:2]).all()
    assert after[1][2] == pytest.approx(before[1][2], rel=0.05)


def test_rungs_that_agree_are_learned_to_be_related_and_others_not():
    def score(x, rung):
        return math.sin(5 * x[0]) + x[1] ** 2

    def unrelated(x, rung):
        return score(x, 0) if rung == 0 else math.sin(5 * (1 - x[1]) + 2 * rung) + x[2]

    agreeing = RungProcess(observed(60, score=score)).kernel.relation(0, 2)
    opposed = RungProcess(observed(60, score=unrelated)).kernel.relation(0, 2)
    assert agreeing > 0.7
    assert opposed < 0.5


def test_rungs_that_agree_may_all_be_wrong_about_the_last():
    def misled(x, rung):
        return math.sin(5 * x[1]) if rung < 2 else math.sin(5 * x[0]) + x[2]

    kernel = RungProcess(observed(60, score=misled)).kernel
    assert kernel.relation(0, 1) > 0.7
    assert kernel.relation(1, 2) < 0.5


def test_what_matters_early_only_is_told_from_what_lasts():
    """x[1] is all that matters at the lowest rung and nothing at the highest, where few are known."""
    random = np.random.default_rng(4)
    features = random.random((60, 4))
    rungs = np.array([0] * 40 + [2] * 20)
    scores = features[:, 0] ** 2 + np.where(rungs == 0, -2 * features[:, 1], 0.0)
    process = RungProcess(Observed(features=features, dimensions=DIMENSIONS, rungs=rungs, scores=scores, num_rungs=3))
    low, high = (process.posterior(np.array([[0.5, end, 0.5, 0.5]]), 2)[0].item() for end in (0.1, 0.9))
    assert abs(high - low) < 0.4  # 1.6 apart at the lowest rung


def test_the_fit_takes_the_scores_of_the_highest_rungs():
    many = observed(3 * FIT_POINTS)
    order = np.argsort(-many.rungs, kind="stable")
    changed = many.scores.copy()
    changed[order[FIT_POINTS:]] += 1.0
    before, after = (likelihood(replace(many, scores=scores), many.scores) for scores in (many.scores, changed))
    assert before[0](before[1])[0] == after[0](after[1])[0]


def test_two_options_are_one_apart_and_what_is_missing_is_in_the_middle():
    encoder = Encoder(TREE)
    drawn = [known(TREE.draw(RandomChooser(0, number), BASE)[0], {}) for number in range(60)]
    features = encoder.features(drawn)
    kind = np.flatnonzero(encoder.dimensions == encoder.dimensions[encoder._columns["tree.kind"][0]])
    a, b = (next(i for i, one in enumerate(drawn) if one.units["tree.kind"] == kind) for kind in (0, 1))
    assert math.dist(features[a, kind], features[b, kind]) == pytest.approx(1.0)
    depth = encoder._columns["tree.kind[a].depth"][0]
    assert features[b, depth] == 0.5
    assert features.min() >= 0
    assert features.max() <= 1


def test_modelled_rungs_are_at_least_a_factor_of_two_apart():
    assert spaced([3, 9, 27, 81]) == [3, 9, 27, 81]
    assert spaced(range(1, 51)) == [1, 3, 6, 12, 25, 50]
    assert spaced([100]) == [100]


def test_only_a_trial_s_two_highest_rungs_are_used():
    trial = known(TREE.draw(RandomChooser(0, 0), BASE)[0], {100: 3.0, 300: 2.0, 900: 1.0})
    other = known(TREE.draw(RandomChooser(0, 1), BASE)[0], {100: 1.0})
    history = History(space=TREE, base=BASE, observations=[trial, other], rungs=RUNGS, seed=0, number=2)
    data = observe(history, Encoder(TREE), RUNGS)
    assert sorted(data.rungs.tolist()) == [0, 1, 2]


def test_a_scale_keeps_ranks_and_a_diverged_trial_is_as_bad_as_the_worst():
    random = np.random.default_rng(5)
    column = {key: float(value) for key, value in enumerate(np.exp(3 * random.standard_normal(30)))}
    (scaled,) = common_scale([column | {30: math.inf}])
    assert sorted(column, key=column.get) == sorted(column, key=scaled.get)
    assert scaled[30] == max(scaled[key] for key in column)


def test_trials_have_the_spread_at_a_rung_that_they_had_one_below():
    random = np.random.default_rng(6)
    low = {key: float(random.normal()) for key in range(40)}
    best = sorted(low, key=low.get)[:20]
    scaled = common_scale([low, {key: 1000 * low[key] for key in best}])
    assert np.std([scaled[1][key] for key in best]) == pytest.approx(np.std([scaled[0][key] for key in best]), rel=0.05)
    assert common_scale([{0: math.inf}, {}]) == [{}, {}]
