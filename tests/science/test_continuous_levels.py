"""Levels without a grid: the proposals' quantiles and ECT's mapping, against independent formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gcsearch.science.couplings import Generator
from gcsearch.science.process import VarianceExploding
from gcsearch.science.schedules import Continuous, Lognormal, Uniform

PROCESS = VarianceExploding()


def published_ratio(t, stage, q, k, b):
    """r / t as ECT's text has it, without any bound below."""
    return max(0.0, 1 - (1 + k / (1 + math.exp(b * t))) / q ** (stage + 1))


@pytest.mark.parametrize(("mean", "std"), [(-1.1, 2.0), (-0.8, 1.6), (3.0, 0.5)])
def test_lognormal_quantile_is_that_of_the_truncated_distribution(mean, std):
    uniforms = torch.linspace(0.001, 0.999, 57, dtype=torch.float64)
    cut = [(math.log(level) - mean) / std for level in (PROCESS.sigma_min, PROCESS.sigma_max)]
    expected = np.exp(mean + std * stats.truncnorm(*cut).ppf(uniforms.numpy()))
    got = Lognormal(mean=mean, std=std).quantile(uniforms, PROCESS)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-7)


def test_uniform_quantile_lies_on_every_grid():
    for num_levels in (5, 101):
        uniforms = torch.arange(num_levels - 1, dtype=torch.float64) / (num_levels - 1)
        torch.testing.assert_close(
            Uniform().quantile(uniforms, PROCESS).float(), PROCESS.grid(num_levels)[:-1], rtol=1e-6, atol=0
        )


@pytest.mark.parametrize(
    "settings", [{}, {"k": 0.0}, {"q": 256.0, "num_stages": 1}, {"q": 4.0, "num_stages": 4, "b": 2.0}]
)
@pytest.mark.parametrize("progress", [0.0, 0.3, 0.6, 0.99])
def test_lower_level_follows_the_published_mapping_down_to_the_smallest_level(settings, progress):
    schedule = Continuous(**settings)
    num_steps = 1_000
    step = int(progress * num_steps)
    stage = int(progress * schedule.num_stages)
    lower, upper = schedule.pair(torch.linspace(0, 1, 501)[:-1], PROCESS, Lognormal(), step, num_steps)
    for r, t in zip(lower.tolist(), upper.tolist(), strict=True):
        expected = t * published_ratio(t, stage, schedule.q, schedule.k, schedule.b)
        assert r == pytest.approx(max(expected, PROCESS.sigma_min), rel=1e-5)


def test_first_stage_is_denoising_at_small_levels_and_not_at_large_ones():
    lower, upper = Continuous().pair(torch.linspace(0, 1, 501)[:-1], PROCESS, Lognormal(), 0, 100)
    torch.testing.assert_close(lower[upper < 1].unique(), torch.tensor([PROCESS.sigma_min]))
    torch.testing.assert_close(lower[upper > 20], upper[upper > 20] / 2, rtol=1e-5, atol=0)


def test_stages_have_equal_length_and_gaps_halve():
    schedule = Continuous()
    stages = [schedule.stage(step, 800)["stage"] for step in range(800)]
    assert [stages.count(stage) for stage in range(8)] == [100] * 8
    uniforms = torch.tensor([0.99])
    gaps = [
        (upper - lower).item()
        for lower, upper in (schedule.pair(uniforms, PROCESS, Lognormal(), step, 800) for step in (300, 400))
    ]
    assert gaps[1] == pytest.approx(gaps[0] / 2, rel=1e-5)


def test_consistency_training_takes_a_continuous_mapping_with_generated_end_points(
    recipe, draws_for, perceptrons, loss_and_gradient, rng
):
    online, ema = perceptrons()
    data, draws = torch.randn(64, 2, generator=rng), draws_for(64)
    asked = []
    losses = []
    for mu in (0.0, 1.0):
        parts = recipe(timesteps=Continuous(), coupling=Generator(mu=mu))
        terms, gradient = loss_and_gradient(parts, online, ema, data, draws, step=0)
        losses.append(terms.loss.item())
        asked.append(terms.forward_units)
        assert all(part.isfinite().all() for part in gradient)
    assert asked == [4 * 64, 5 * 64]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"q": 1.0}, "q must be > 1"),
        ({"k": -1.0}, "k must be >= 0"),
        ({"b": 0.0}, "b must be > 0"),
        ({"num_stages": 0}, "num_stages must be at least 1"),
        ({"num_stages": 21}, "q\\^num_stages <= 2\\^20"),
    ],
)
def test_mappings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Continuous(**settings)
