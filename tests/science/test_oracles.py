"""Closed forms of a mixture, its exact map and its diagnostics, against autograd, quadrature and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gcsearch.science.oracles import (
    ExactConsistency,
    GaussianMixture,
    MixtureFlow,
    contraction,
    proxy_generator,
    proxy_independent,
    transport_cost,
)
from gcsearch.science.process import Bridge, ConditionalOT, Linear, TrigFlow, VarianceExploding, karras_grid

DOUBLE = torch.float64

TRIANGLE = GaussianMixture(
    means=torch.tensor([[1.0, -1.0], [0.5, 1.0], [-2.0, 0.3]], dtype=DOUBLE),
    std=0.4,
    probabilities=torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE),
)

LINE = GaussianMixture(means=torch.tensor([[-1.0], [0.7]], dtype=DOUBLE), std=0.3)

SINGLE = GaussianMixture(means=torch.tensor([[0.3, -0.8]], dtype=DOUBLE), std=0.5)


# Mixture ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", [TRIANGLE, SINGLE])
@pytest.mark.parametrize("sigma", [0.05, 0.7, 10.0])
def test_score_equals_the_autograd_gradient_of_the_log_density(levels, mixture, sigma, rng):
    x = (2 * torch.randn(9, 2, generator=rng, dtype=DOUBLE)).requires_grad_()
    (expected,) = torch.autograd.grad(mixture.log_density(x, levels(sigma).expand(9)).sum(), x)
    torch.testing.assert_close(mixture.score(x.detach(), levels(sigma).expand(9)), expected)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 3.0])
def test_log_density_equals_the_mixture_of_scipy_normals(levels, sigma):
    x = torch.linspace(-3, 3, 25, dtype=DOUBLE)
    spread = math.hypot(0.3, sigma)
    expected = np.log(0.5 * stats.norm.pdf(x, -1.0, spread) + 0.5 * stats.norm.pdf(x, 0.7, spread))
    got = LINE.log_density(x[:, None], levels(sigma).expand(25))
    torch.testing.assert_close(got, torch.from_numpy(expected))


@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_denoised_is_the_posterior_mean_by_quadrature(levels, sigma):
    data = torch.linspace(-4, 4, 8_001, dtype=DOUBLE)
    prior = torch.from_numpy(stats.norm.pdf(data, -1.0, 0.3) + stats.norm.pdf(data, 0.7, 0.3))
    states = torch.linspace(-2, 2, 9, dtype=DOUBLE)
    posterior = prior * torch.exp(-(states[:, None] - data).square() / (2 * sigma**2))
    expected = (posterior * data).sum(1) / posterior.sum(1)
    got = LINE.denoised(states[:, None], levels(sigma).expand(9))
    torch.testing.assert_close(got[:, 0], expected)


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_velocity_is_the_expected_noise(levels, sigma, rng):
    num = 100_000
    data, noise = TRIANGLE.sample(num, rng), torch.randn(num, 2, generator=rng, dtype=DOUBLE)
    velocity = TRIANGLE.velocity(data + sigma * noise, levels(sigma).expand(num))
    # E[noise | x] is orthogonal to noise - E[noise | x].
    inner = (velocity * (noise - velocity)).sum(1)
    assert abs(inner.mean()) < 5 * inner.std() / num**0.5
    torch.testing.assert_close(velocity.mean(0), torch.zeros(2, dtype=DOUBLE), rtol=0, atol=5 / num**0.5)


def test_denoised_tends_to_the_state_and_to_the_mean_at_the_ends(levels, rng):
    x = TRIANGLE.sample(5, rng)
    torch.testing.assert_close(TRIANGLE.denoised(x, levels(1e-6).expand(5)), x)
    mean = torch.tensor([0.5 * 1.0 + 0.3 * 0.5 - 0.2 * 2.0, -0.5 + 0.3 + 0.2 * 0.3], dtype=DOUBLE)
    torch.testing.assert_close(TRIANGLE.denoised(x, levels(1e5).expand(5)), mean.expand(5, 2), rtol=1e-3, atol=1e-3)


def test_data_of_points_is_denoised_to_the_nearest_one(levels):
    points = GaussianMixture(means=TRIANGLE.means, std=0.0)
    nearby = TRIANGLE.means + 0.01
    torch.testing.assert_close(points.denoised(nearby, levels(0.02, 0.02, 0.02)), TRIANGLE.means)


@pytest.mark.usefixtures("unchanged_global_rng")
def test_samples_have_the_moments_of_the_mixture(rng):
    samples = TRIANGLE.sample(50_000, rng)
    weights, means = TRIANGLE.weights, TRIANGLE.means
    mean = weights @ means
    covariance = 0.16 * torch.eye(2, dtype=DOUBLE) + (means - mean).T @ (weights[:, None] * (means - mean))
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=0.05)


def test_mixture_of_images_is_the_mixture_of_their_pixels(levels, rng):
    means = torch.randn(3, 2, 2, 2, generator=rng, dtype=DOUBLE)
    x, sigma = torch.randn(5, 2, 2, 2, generator=rng, dtype=DOUBLE), levels(0.1, 0.5, 1, 2, 3)
    flat = GaussianMixture(means=means.flatten(1), std=0.2).denoised(x.flatten(1), sigma)
    torch.testing.assert_close(GaussianMixture(means=means, std=0.2).denoised(x, sigma).flatten(1), flat)


@pytest.mark.parametrize("mixture", [TRIANGLE, SINGLE])
@pytest.mark.parametrize("sigma", [0.05, 0.7, 10.0])
def test_flow_of_the_variance_exploding_process_is_that_of_the_mixture(levels, mixture, sigma, rng):
    flow = MixtureFlow(process=VarianceExploding(), data=mixture)
    x, level = 2 * torch.randn(9, 2, generator=rng, dtype=DOUBLE), levels(sigma).expand(9)
    for name in ("log_density", "score", "denoised", "velocity"):
        torch.testing.assert_close(
            getattr(flow, name)(x, level), getattr(mixture, name)(x, level), rtol=1e-9, atol=1e-11
        )


# Exact map --------------------------------------------------------------------------------------------------------


PROCESS = VarianceExploding(sigma_min=0.1, sigma_max=2.0)

EXACT = ExactConsistency(PROCESS, SINGLE.means[0], SINGLE.std)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_integrated_flow_converges_to_the_exact_map_at_the_order_of_the_method(levels, follow_flow, method, order, rng):
    x = SINGLE.means + math.hypot(0.5, 2.0) * torch.randn(6, 2, generator=rng, dtype=DOUBLE)
    expected = EXACT(x, levels(2.0).expand(6))
    steps = [40, 80, 160, 320]
    errors = []
    for num in steps:
        grid = torch.linspace(2.0, 0.1, num + 1, dtype=DOUBLE)
        errors.append((follow_flow(SINGLE.velocity, x, grid, method) - expected).norm().item())
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.15)


@pytest.mark.parametrize("process", [PROCESS, Bridge(), VarianceExploding(), Linear(), TrigFlow(), ConditionalOT()])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_exact_map_is_the_identity_at_sigma_min(process, dtype, rng):
    x = torch.randn(4, 2, generator=rng, dtype=dtype)
    exact = ExactConsistency(process, SINGLE.means[0], 0.5)
    torch.testing.assert_close(exact(x, torch.full((4,), process.sigma_min, dtype=dtype)), x, rtol=0, atol=0)


def test_exact_map_is_constant_along_a_trajectory(levels, follow_flow, rng):
    x = SINGLE.means + 2.0 * torch.randn(6, 2, generator=rng, dtype=DOUBLE)
    grid = torch.linspace(2.0, 0.7, 400, dtype=DOUBLE)
    later = follow_flow(SINGLE.velocity, x, grid, "heun")
    torch.testing.assert_close(
        EXACT(later, levels(0.7).expand(6)), EXACT(x, levels(2.0).expand(6)), rtol=1e-4, atol=1e-5
    )


def test_exact_map_of_the_bridge_is_that_of_the_variance_exploding_process_rescaled(levels, rng):
    x, sigma = torch.randn(4, 2, generator=rng, dtype=DOUBLE), levels(0.01, 0.5, 3.0, 80.0)
    exploding = ExactConsistency(VarianceExploding(), SINGLE.means[0], 0.5)(x, sigma)
    bridge = ExactConsistency(Bridge(), SINGLE.means[0], 0.5)(x / (1 + sigma[:, None]), sigma)
    torch.testing.assert_close(bridge, exploding / 1.002)


def test_exact_map_takes_data_to_its_own_distribution(levels, rng):
    num = 50_000
    start = SINGLE.sample(num, rng) + 2.0 * torch.randn(num, 2, generator=rng, dtype=DOUBLE)
    end = EXACT(start, levels(2.0).expand(num))
    torch.testing.assert_close(end.mean(0), SINGLE.means[0], rtol=0, atol=0.015)
    torch.testing.assert_close(end.T.cov(), (0.25 + 0.01) * torch.eye(2, dtype=DOUBLE), rtol=0, atol=0.01)


# Diagnostics ------------------------------------------------------------------------------------------------------


def test_transport_cost_falls_from_independent_to_optimal_transport(levels):
    mean, std = torch.tensor([0.6, -0.8], dtype=DOUBLE), 0.5
    sigma = torch.logspace(-6, 6, 50, dtype=DOUBLE)
    cost = transport_cost(sigma, mean, std)
    assert (cost.diff() < 0).all()
    torch.testing.assert_close(cost[[0, -1]], levels(1 + 2 * (0.25 + 1), 1 + 2 * 0.25), rtol=1e-5, atol=0)


def test_generator_proxy_is_below_the_independent_one_and_vanishes_faster(levels):
    sigma = torch.logspace(-2, 4, 30, dtype=DOUBLE)
    independent, generated = proxy_independent(sigma, 0.5, 2), proxy_generator(sigma, 0.5, 2)
    assert (generated < independent).all()
    torch.testing.assert_close(independent[-1] * 1e8, levels(2 * 0.25)[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(generated[-1] * 1e16, levels(2 * 0.0625)[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("std", [0.3, 1.2])
def test_generator_proxy_equals_the_published_expression_without_sigma_min(levels, std):
    for sigma in (0.1, 0.5, 2.0):
        total = std**2 + sigma**2
        expected = 2 * std**4 / (total * (total + 2 * std * sigma**2 / math.sqrt(total)))
        assert proxy_generator(levels(sigma), std, 2).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sigma", [0.2, 0.7, 3.0])
@pytest.mark.parametrize("sigma_min", [1e-6, 0.1])
def test_diagnostics_of_a_gaussian_equal_simulation(levels, sigma, sigma_min, rng):
    num, std, mean = 200_000, 0.5, SINGLE.means[0]
    data, noise = SINGLE.sample(num, rng), torch.randn(num, 2, generator=rng, dtype=DOUBLE)
    level = levels(sigma)
    noisy = data + sigma * noise
    end = ExactConsistency(VarianceExploding(sigma_min=sigma_min), mean, std)(noisy, level.expand(num))

    cost = (end - noise).square().sum(1).mean()
    torch.testing.assert_close(cost, transport_cost(level, mean, std, sigma_min)[0], rtol=0.01, atol=0)

    gap = (noise - SINGLE.velocity(noisy, level.expand(num))).square().sum(1).mean()
    torch.testing.assert_close(gap, proxy_independent(level, std, 2)[0], rtol=0.01, atol=0)

    # All is jointly Gaussian, so the conditional mean of the noise is a linear regression.
    state = end + sigma * noise
    inputs = torch.cat([state, torch.ones(num, 1, dtype=DOUBLE)], dim=1)
    residual = noise - inputs @ torch.linalg.lstsq(inputs, noise).solution
    expected = proxy_generator(level, std, 2, sigma_min)[0]
    torch.testing.assert_close(residual.square().sum(1).mean(), expected, rtol=0.01, atol=0)


def test_contraction_is_the_slope_of_the_exact_map(levels, rng):
    x, sigma = torch.randn(3, 2, generator=rng, dtype=DOUBLE), levels(0.1, 0.5, 2.0)
    slope = contraction(sigma, 0.5, PROCESS.sigma_min)[:, None]
    torch.testing.assert_close(EXACT(x + 1, sigma) - EXACT(x, sigma), slope.expand(3, 2))


def local_residual(target, inputs, size=40):
    """E Var[target | inputs]: mean squared residual of a straight line through each group of neighbours."""
    order = inputs.argsort()
    x, y = inputs[order].reshape(-1, size), target[order].reshape(-1, size)
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    slope = (x * y).sum(1) / x.square().sum(1)
    return ((y - slope[:, None] * x).square().sum(1) / (size - 2)).mean().item()


@pytest.mark.parametrize("row", range(6))
def test_two_mode_diagnostics_with_the_ideal_predictor_equal_the_reference_numbers(
    levels, follow_flow, row, golden, rng
):
    reference = golden("gaussian_mixture")
    expected = reference["rows"][row]
    sigma, num, std = expected["sigma"], 400_000, 0.01
    modes = GaussianMixture(means=torch.tensor([[0.0, -0.5], [0.0, 0.5]], dtype=DOUBLE), std=std)
    data, noise = modes.sample(num, rng), torch.randn(num, 2, generator=rng, dtype=DOUBLE)
    noisy = data + sigma * noise
    assert (data - noise).square().sum(1).mean().item() == pytest.approx(reference["cost_at_zero"], abs=0.015)
    gap = noise - modes.velocity(noisy, levels(sigma).expand(num))
    assert gap.square().sum(1).mean().item() == pytest.approx(expected["independent"], rel=0.02)

    # The coordinates separate: the first is one Gaussian, the second two modes on a line, whose flow is followed from
    # a fine grid of starting points.
    line = GaussianMixture(means=modes.means[:, 1:], std=std)
    starts = torch.linspace(-1 - 6 * sigma, 1 + 6 * sigma, 8_001, dtype=DOUBLE)
    ends = follow_flow(line.velocity, starts[:, None], karras_grid(60, 1e-3, sigma, 7.0).double().flip(0), "heun")
    second = torch.from_numpy(np.interp(noisy[:, 1], starts, ends[:, 0]))
    first = contraction(levels(sigma), std) * noisy[:, 0]
    end = torch.stack([first, second], dim=1)
    assert (end - noise).square().sum(1).mean().item() == pytest.approx(expected["cost"], abs=0.015)

    along = local_residual(noise[:, 1], second + sigma * noise[:, 1])
    generated = along + proxy_generator(levels(sigma), std, 1).item()
    assert generated == pytest.approx(expected["generator"], rel=0.02, abs=1.3e-4)
