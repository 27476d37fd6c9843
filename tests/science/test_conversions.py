"""Conversions between data, noise, velocity and score: round trips, definitions and singular ends."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from gcsearch.science.conversions import Estimate
from gcsearch.science.process import Bridge, ConditionalOT, Linear, TrigFlow, VarianceExploding

PROCESSES = [VarianceExploding(), Bridge(), Linear(), ConditionalOT(), TrigFlow()]
NUM_LEVELS = 8
FROM = {
    "data": Estimate.from_data,
    "noise": Estimate.from_noise,
    "velocity": Estimate.from_velocity,
    "score": Estimate.from_score,
}

each_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)


def states(process, rng, num_levels=NUM_LEVELS):
    """States at levels of the process where neither end point is lost, and what they were made of."""
    sigma = process.grid(num_levels + 1)[:-1].double()
    data, noise = torch.randn(2, len(sigma), 2, 3, generator=rng, dtype=torch.float64)
    coefficients = process.coefficients(sigma)
    return process.add_noise(data, noise, sigma), Estimate(data=data, noise=noise, coefficients=coefficients)


@each_process
@pytest.mark.parametrize(("start", "goal"), itertools.product(FROM, FROM))
def test_any_quantity_gives_any_other(process, start, goal, rng):
    noisy, truth = states(process, rng)
    got = FROM[start](noisy, getattr(truth, start), truth.coefficients)
    torch.testing.assert_close(getattr(got, goal), getattr(truth, goal), rtol=1e-6, atol=1e-8)


@each_process
@pytest.mark.parametrize("start", FROM)
def test_data_and_noise_make_up_the_state(process, start, rng):
    noisy, truth = states(process, rng)
    got = FROM[start](noisy, getattr(truth, start), truth.coefficients)
    a, b = (value[:, None, None] for value in (truth.coefficients.data, truth.coefficients.noise))
    torch.testing.assert_close(a * got.data + b * got.noise, noisy)


@each_process
def test_velocity_of_a_sample_is_the_derivative_of_its_path(process, rng):
    sigma = process.grid(NUM_LEVELS).double().requires_grad_()
    data, noise = torch.randn(2, NUM_LEVELS, 1, generator=rng, dtype=torch.float64)
    (expected,) = torch.autograd.grad(process.add_noise(data, noise, sigma).sum(), sigma)
    got = Estimate(data=data, noise=noise, coefficients=process.coefficients(sigma.detach())).velocity
    torch.testing.assert_close(got[:, 0], expected)


@each_process
def test_score_of_known_data_is_the_gradient_of_the_transition_density(process, rng):
    noisy, truth = states(process, rng)
    x = noisy.clone().requires_grad_()
    a, b = (value[:, None, None] for value in (truth.coefficients.data, truth.coefficients.noise))
    (expected,) = torch.autograd.grad(-((x - a * truth.data).square() / (2 * b**2)).sum(), x)
    torch.testing.assert_close(Estimate.from_data(noisy, truth.data, truth.coefficients).score, expected)


def test_formulas_of_the_variance_exploding_process_are_the_published_ones(rng):
    noisy, denoised = torch.randn(2, 3, 2, generator=rng, dtype=torch.float64)
    sigma = torch.tensor([0.002, 1.0, 80.0], dtype=torch.float64)
    got = Estimate.from_data(noisy, denoised, VarianceExploding().coefficients(sigma))
    torch.testing.assert_close(got.velocity, (noisy - denoised) / sigma[:, None])
    torch.testing.assert_close(got.score, (denoised - noisy) / sigma[:, None] ** 2)


def test_formulas_of_the_linear_process_are_those_of_flow_matching(rng):
    noisy, velocity = torch.randn(2, 3, 2, generator=rng, dtype=torch.float64)
    u = torch.tensor([0.001, 0.4, 1.0], dtype=torch.float64)
    got = Estimate.from_velocity(noisy, velocity, Linear().coefficients(u))
    torch.testing.assert_close(got.data, noisy - u[:, None] * velocity)
    torch.testing.assert_close(got.noise, noisy + (1 - u[:, None]) * velocity)


def test_velocity_of_trig_by_the_angle_is_the_target_of_the_network(rng):
    noisy, network = torch.randn(2, 3, 2, generator=rng, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.5, 80.0], dtype=torch.float64)
    angle = (sigma / 0.5).atan()[:, None]
    slope = 0.5 * network * angle.cos() ** 2 / 0.5  # dx / dt = sigma_data F, d sigma / dt = sigma_data / cos(t)^2
    got = Estimate.from_velocity(noisy, slope, TrigFlow().coefficients(sigma))
    torch.testing.assert_close(got.data, angle.cos() * noisy - angle.sin() * 0.5 * network)


@pytest.mark.parametrize("process", [Linear(), ConditionalOT()], ids=lambda process: process.name)
def test_where_the_state_is_the_noise_only_noise_cannot_tell_the_data(process, rng):
    sigma = torch.full((4,), process.sigma_max, dtype=torch.float64)
    data, noise = torch.randn(2, 4, 2, generator=rng, dtype=torch.float64)
    truth = Estimate(data=data, noise=noise, coefficients=process.coefficients(sigma))
    noisy = process.add_noise(data, noise, sigma)
    for start in ("data", "velocity"):
        got = FROM[start](noisy, getattr(truth, start), truth.coefficients)
        torch.testing.assert_close((got.data, got.noise, got.velocity), (data, noise, truth.velocity))
    for start in ("noise", "score"):
        got = FROM[start](noisy, getattr(truth, start), truth.coefficients)
        assert not got.data.isfinite().any()
        torch.testing.assert_close(got.noise, noise)


@each_process
def test_velocity_is_the_start_that_keeps_single_precision_at_both_ends(process, rng):
    sigma = torch.tensor([process.sigma_min, process.sigma_max])
    data, noise = torch.randn(2, 2, 3, generator=rng)
    truth = Estimate(data=data, noise=noise, coefficients=process.coefficients(sigma))
    got = Estimate.from_velocity(process.add_noise(data, noise, sigma), truth.velocity, truth.coefficients)
    small, large = (slice(0, 1), slice(1, 2))
    torch.testing.assert_close(got.data[small], data[small], rtol=0, atol=1e-5)
    torch.testing.assert_close(got.noise[large], noise[large], rtol=0, atol=1e-5)
    assert math.isfinite(got.noise.sum().item() + got.data.sum().item())
