"""Averages of the weights against the published decays and a naive loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from gcsearch.science.ema import Constant, PowerFunction, PowerWarmup, power_of_width, update_average


class Network(nn.Module):
    """Two parameters and two buffers."""

    def __init__(self, seed):
        super().__init__()
        stream = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, 2, generator=stream))
        self.bias = nn.Parameter(torch.randn(3, generator=stream))
        self.register_buffer("scale", torch.randn(2, generator=stream))
        self.register_buffer("count", torch.tensor(seed))


STEPS = [5_000, 10_000, 20_000, 50_000, 100_000, 150_000]


@pytest.mark.parametrize("step", STEPS)
def test_decay_of_five_steps_equals_the_published_decay(step, golden):
    published = golden("ema")["decay_per_five_steps"][str(step)]
    five = math.prod(PowerWarmup().decay(step + ahead, 512) for ahead in range(5))
    assert five == pytest.approx(published, abs=1e-5)


@pytest.mark.parametrize("step", STEPS)
def test_half_life_in_steps_equals_the_published_one(step, golden):
    published = golden("ema")["half_life_steps"][str(step)]
    assert math.log(0.5) / math.log(PowerWarmup().decay(step, 512)) == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("step", [1, 7, 1_000, 123_456])
@pytest.mark.parametrize("period", [1, 2, 5])
def test_per_step_decays_multiply_to_the_decay_of_a_period(step, period):
    rule = PowerWarmup(period=period)
    assert rule.decay(step, 1) ** period == pytest.approx(1 - (1 + step) ** (-2 / 3), rel=1e-12)


def test_decay_grows_to_its_cap():
    decays = [PowerWarmup(max_decay=0.99, period=1).decay(step, 1) for step in (1, 10, 100, 10_000)]
    assert decays == sorted(decays)
    assert decays[-1] == 0.99


def test_published_cap_is_not_reached_before_a_million_steps():
    cap = 0.9999 ** (1 / 5)
    assert PowerWarmup().decay(990_000, 1) < cap
    assert PowerWarmup().decay(1_010_000, 1) == pytest.approx(cap, rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 100, 1_000])
def test_constant_decay_halves_a_weight_after_the_half_life_in_images(batch_size):
    rule = Constant(half_life_images=10_000.0)
    kept = math.prod(rule.decay(step, batch_size) for step in range(1, 10_000 // batch_size + 1))
    assert kept == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9, 0.9999])
def test_update_is_the_convex_combination_of_every_parameter(decay):
    average, network = Network(1), Network(2)
    expected = {
        name: decay * old.detach() + (1 - decay) * dict(network.named_parameters())[name].detach()
        for name, old in average.named_parameters()
    }
    update_average(average, network, decay)
    torch.testing.assert_close({name: value.detach() for name, value in average.named_parameters()}, expected)


def test_update_copies_buffers_and_leaves_the_network_alone():
    average, network = Network(1), Network(2)
    update_average(average, network, 0.9)
    torch.testing.assert_close(dict(average.named_buffers()), dict(network.named_buffers()), rtol=0, atol=0)
    torch.testing.assert_close(network.state_dict(), Network(2).state_dict(), rtol=0, atol=0)
    network.scale.add_(1)
    assert (average.scale != network.scale).all()


def test_update_leaves_no_trace_in_autograd():
    average, network = Network(1), Network(2)
    update_average(average, network, 0.5)
    assert all(parameter.grad_fn is None for parameter in average.parameters())


def test_average_of_a_constant_network_converges_to_it():
    average, network = Network(1), Network(2)
    rule = PowerWarmup()
    for step in range(1, 4_000):
        update_average(average, network, rule.decay(step, 1))
    torch.testing.assert_close(average.state_dict(), network.state_dict(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (PowerWarmup, {"max_decay": 1.0}, "max_decay must be in"),
        (PowerWarmup, {"power": 0.0}, "power must be > 0"),
        (PowerWarmup, {"period": 0}, "period must be at least 1"),
        (Constant, {"half_life_images": 0.0}, "half_life_images must be > 0"),
        (PowerFunction, {"sigma_rel": 0.0}, r"sigma_rel must be in \(0, 0.28\), got 0.0"),
        (PowerFunction, {"sigma_rel": 0.28}, "sigma_rel must be in"),
        (PowerFunction, {"sigma_rel": -0.1}, "sigma_rel must be in"),
        (PowerFunction, {"sigma_rel": math.nan}, "sigma_rel must be in"),
    ],
)
def test_meaningless_values_are_rejected_by_name(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)


def profile(rule, num_steps):
    """Weight of the weights after each step in the average after `num_steps`, by going back through the updates."""
    kept, weights = 1.0, np.zeros(num_steps)
    for step in range(num_steps, 0, -1):
        decay = rule.decay(step, 128)
        weights[step - 1] = kept * (1 - decay)
        kept *= decay
    assert kept == 0.0  # the initial weights are forgotten by the first update
    return weights


def relative_width(weights):
    times = np.arange(1, len(weights) + 1) / len(weights)
    mean = (weights * times).sum()
    return math.sqrt((weights * (times - mean) ** 2).sum())


WIDTHS = [0.01, 0.05, 0.1, 0.2, 0.279]


@pytest.mark.parametrize("sigma_rel", WIDTHS)
@pytest.mark.parametrize("num_steps", [1_000, 10_000])
def test_width_of_the_power_profile_is_the_one_asked_for(sigma_rel, num_steps):
    weights = profile(PowerFunction(sigma_rel=sigma_rel), num_steps)
    assert weights.sum() == pytest.approx(1.0, rel=1e-9)
    assert relative_width(weights) == pytest.approx(sigma_rel, rel=1e-2 if num_steps == 1_000 else 1e-3)


@pytest.mark.parametrize("sigma_rel", WIDTHS)
def test_power_profile_in_relative_time_is_the_same_for_short_and_long_trainings(sigma_rel):
    rule = PowerFunction(sigma_rel=sigma_rel)
    short, long = np.cumsum(profile(rule, 1_000)), np.cumsum(profile(rule, 10_000))
    # The profile is (k / n)^(gamma + 1) exactly, so the two agree at every tenth step.
    np.testing.assert_allclose(short, long[9::10], rtol=1e-9, atol=1e-15)
    power = power_of_width(sigma_rel)
    np.testing.assert_allclose(short, (np.arange(1, 1_001) / 1_000) ** (power + 1), rtol=1e-9, atol=1e-15)


def test_profile_of_a_constant_decay_is_not_the_same_for_short_and_long_trainings():
    rule = Constant(half_life_images=64_000.0)
    ages = [math.log(0.5) / math.log(rule.decay(num_steps, 128)) / num_steps for num_steps in (1_000, 10_000)]
    assert ages[0] == pytest.approx(10 * ages[1])


@pytest.mark.parametrize("sigma_rel", [1e-4, *WIDTHS])
def test_exponent_solves_the_published_equation(sigma_rel):
    power = power_of_width(sigma_rel)
    assert power >= 0
    assert (power + 1) / ((power + 2) ** 2 * (power + 3)) == pytest.approx(sigma_rel**2, rel=1e-9)
    # t = sigma_rel^-2 turns it into a cubic, of which the largest real root is meant.
    t = sigma_rel**-2
    assert power == pytest.approx(np.roots([1, 7, 16 - t, 12 - t]).real.max(), rel=1e-6)


def test_first_update_of_the_power_function_takes_the_network_itself():
    assert PowerFunction().decay(1, 128) == 0.0
