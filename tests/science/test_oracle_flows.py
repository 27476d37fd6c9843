"""Flows of mixtures and of finite data on every path, and transport costs, against brute force and solvers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize

from gcsearch.science.oracles import (
    ExactConsistency,
    FiniteData,
    GaussianMixture,
    MixtureFlow,
)
from gcsearch.science.process import Bridge, ConditionalOT, Linear, TrigFlow, VarianceExploding

DOUBLE = torch.float64

TRIANGLE = GaussianMixture(
    means=torch.tensor([[1.0, -1.0], [0.5, 1.0], [-2.0, 0.3]], dtype=DOUBLE),
    std=0.4,
    probabilities=torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE),
)

SINGLE = GaussianMixture(means=torch.tensor([[0.3, -0.8]], dtype=DOUBLE), std=0.5)


# Any path, any source ---------------------------------------------------------------------------------------------


ALL = [VarianceExploding(), Bridge(), Linear(), ConditionalOT(), TrigFlow()]

each_process = pytest.mark.parametrize("process", ALL, ids=lambda process: process.name)

SOURCE = GaussianMixture(
    means=torch.tensor([[-1.0, 0.5], [0.4, -1.2]], dtype=DOUBLE),
    std=0.7,
    probabilities=torch.tensor([0.35, 0.65], dtype=DOUBLE),
)

STRETCHED = GaussianMixture(
    means=torch.tensor([[-1.0, 0.5], [0.4, -1.2]], dtype=DOUBLE), std=torch.tensor([0.2, 0.9], dtype=DOUBLE)
)

each_source = pytest.mark.parametrize("source", [None, SOURCE, STRETCHED], ids=["normal", "mixture", "stretched"])

POINTS = torch.tensor([[0.3, -0.4], [1.0, 0.2], [-0.8, 0.9], [0.31, -0.39], [0.0, 0.0]], dtype=DOUBLE)

TWO_DATA_MODES = GaussianMixture(means=torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=DOUBLE), std=0.01)

TWO_SOURCE_MODES = GaussianMixture(means=torch.tensor([[-1.0, -1.0], [-1.0, 1.0]], dtype=DOUBLE), std=0.01)


def own_levels(process, num=6):
    return process.grid(num).double()


def draw(flow, num, sigma, rng):
    """States at one level with the data and noise they were made of."""
    data, noise = flow.data.sample(num, rng), flow.noise.sample(num, rng)
    return flow.process.add_noise(data, noise, sigma.expand(num)), data, noise


def exact_flow(flow, start, sigma_from, sigma_to, rtol=1e-8, max_step=math.inf):
    """End of the probability-flow ODE by an adaptive method of order 8."""

    def slope(sigma, flat):
        x = torch.from_numpy(flat).reshape(start.shape)
        return flow.velocity(x, torch.full((len(x),), sigma, dtype=DOUBLE)).flatten().numpy()

    span, state = (sigma_from, sigma_to), start.flatten().numpy()
    solution = integrate.solve_ivp(slope, span, state, method="DOP853", rtol=rtol, atol=rtol, max_step=max_step)
    assert solution.success
    return torch.from_numpy(solution.y[:, -1]).reshape(start.shape)


@each_process
@each_source
def test_score_equals_the_gradient_of_the_log_density_on_every_path(process, source, rng):
    flow = MixtureFlow(process=process, data=TRIANGLE, source=source)
    for sigma in own_levels(process):
        x = draw(flow, 9, sigma, rng)[0].requires_grad_()
        (expected,) = torch.autograd.grad(flow.log_density(x, sigma.expand(9)).sum(), x)
        torch.testing.assert_close(flow.score(x.detach(), sigma.expand(9)), expected)


@each_process
def test_score_is_the_expected_noise_over_its_size_for_a_normal_source_only(process, rng):
    sigma = own_levels(process)[3]
    for source in (None, SOURCE):
        flow = MixtureFlow(process=process, data=TRIANGLE, source=source)
        x = draw(flow, 9, sigma, rng)[0]
        same = torch.allclose(flow.score(x, sigma.expand(9)), flow.expectation(x, sigma.expand(9)).score, rtol=1e-7)
        assert same == (source is None)


@each_process
@each_source
def test_expectations_make_up_the_state(process, source, rng):
    flow = MixtureFlow(process=process, data=TRIANGLE, source=source)
    for sigma in own_levels(process):
        x = draw(flow, 9, sigma, rng)[0]
        got = flow.expectation(x, sigma.expand(9))
        torch.testing.assert_close(process.add_noise(got.data, got.noise, sigma.expand(9)), x)


@pytest.mark.parametrize("process", [VarianceExploding(), Linear(), TrigFlow()], ids=lambda process: process.name)
@each_source
def test_expected_data_and_noise_equal_importance_sampling(levels, process, source, rng):
    flow, num = MixtureFlow(process=process, data=TRIANGLE, source=source), 200_000
    sigma = levels(0.6)
    path = process.coefficients(sigma)
    data = TRIANGLE.sample(num, rng)
    for x in draw(flow, 4, sigma, rng)[0]:
        noise = (x - path.data * data) / path.noise
        modes = flow.noise
        offsets = ((noise[:, None] - modes.means) / modes.std).square().sum(2) / 2
        weights = ((modes.weights.double().log() - offsets).logsumexp(1)).softmax(0)[:, None]
        got = flow.expectation(x[None], sigma)
        for samples, value in ((data, got.data), (noise, got.noise)):
            expected = (weights * samples).sum(0)
            error = (weights.square() * (samples - expected).square()).sum(0).sqrt()
            assert ((value[0] - expected).abs() < 5 * error).all()


@each_process
@each_source
def test_velocity_moves_the_density_as_the_continuity_equation_says(process, source, rng):
    flow = MixtureFlow(process=process, data=TRIANGLE, source=source)
    # d log p / d sigma = -(div v + v . score)
    sigma = own_levels(process)[2].expand(5).clone().requires_grad_()
    x = draw(flow, 5, sigma[0].detach(), rng)[0]
    (change,) = torch.autograd.grad(flow.log_density(x, sigma).sum(), sigma)
    inputs = x.clone().requires_grad_()
    velocity = flow.velocity(inputs, sigma.detach())
    divergence = sum(
        torch.autograd.grad(velocity[:, axis].sum(), inputs, retain_graph=True)[0][:, axis] for axis in range(2)
    )
    transport = (velocity * flow.score(x, sigma.detach())).sum(1)
    torch.testing.assert_close(change, -(divergence + transport).detach(), rtol=1e-8, atol=1e-9)


@each_process
def test_flow_is_finite_at_both_ends_in_single_precision(process, rng):
    flow = MixtureFlow(process=process, data=TRIANGLE, source=SOURCE)
    sigma = process.grid(2)
    x = process.add_noise(*torch.randn(2, 2, 2, generator=rng), sigma)
    got = flow.expectation(x, sigma)
    for value in (got.data, got.noise, got.velocity, flow.score(x, sigma)):
        assert value.dtype == torch.float32
        assert value.isfinite().all()


def test_flow_of_images_is_the_flow_of_their_pixels(levels, rng):
    means = torch.randn(3, 2, 2, 2, generator=rng, dtype=DOUBLE)
    x, sigma = torch.randn(5, 2, 2, 2, generator=rng, dtype=DOUBLE), levels(0.1, 0.3, 0.5, 0.7, 1)
    image = MixtureFlow(process=Linear(), data=GaussianMixture(means=means, std=0.2))
    flat = MixtureFlow(process=Linear(), data=GaussianMixture(means=means.flatten(1), std=0.2))
    torch.testing.assert_close(image.velocity(x, sigma).flatten(1), flat.velocity(x.flatten(1), sigma))
    torch.testing.assert_close(image.score(x, sigma).flatten(1), flat.score(x.flatten(1), sigma))


@each_process
def test_exact_map_is_the_end_of_the_flow_on_every_path(levels, process, rng):
    flow = MixtureFlow(process=process, data=SINGLE)
    top = min(process.sigma_max, 5.0)
    x = draw(flow, 6, levels(top)[0], rng)[0]
    end = exact_flow(flow, x, top, process.sigma_min)
    exact = ExactConsistency(process, SINGLE.means[0], SINGLE.std)
    torch.testing.assert_close(exact(x, levels(top).expand(6)), end, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("process", [VarianceExploding(), Linear(), TrigFlow()], ids=lambda process: process.name)
def test_solvers_converge_at_their_order_on_a_mixture_on_every_path(levels, follow_flow, process, rng):
    flow = MixtureFlow(process=process, data=TRIANGLE)
    top, bottom, steps = min(process.sigma_max, 2.0), 0.1, [32, 64, 128]
    x = draw(flow, 8, levels(top)[0], rng)[0]
    expected = exact_flow(flow, x, top, bottom)
    for method, order in (("euler", 1), ("heun", 2)):
        errors = []
        for num in steps:
            grid = torch.linspace(top**0.5, bottom**0.5, num + 1, dtype=DOUBLE).square()
            errors.append((follow_flow(flow.velocity, x, grid, method) - expected).norm().item())
        assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(-order, abs=0.2)


@pytest.mark.parametrize("process", [VarianceExploding(), Bridge(), TrigFlow()], ids=lambda process: process.name)
def test_flow_is_the_same_on_paths_that_differ_by_scale(levels, process, rng):
    x, sigma = 3 * torch.randn(6, 2, generator=rng, dtype=DOUBLE), levels(3.0).expand(6)
    expected = exact_flow(MixtureFlow(process=VarianceExploding(), data=TRIANGLE), x, 3.0, 0.1)
    start, end = process.coefficients(sigma).data, process.coefficients(levels(0.1)).data
    got = exact_flow(MixtureFlow(process=process, data=TRIANGLE), start[:, None] * x, 3.0, 0.1)
    torch.testing.assert_close(got / end, expected, rtol=1e-5, atol=1e-6)


def test_flow_takes_two_source_modes_to_two_data_modes(levels, rng):
    num, (data, source) = 400, (TWO_DATA_MODES, TWO_SOURCE_MODES)
    flow = MixtureFlow(process=Linear(), data=data, source=source)
    start = source.sample(num, rng)
    # Where narrow modes cross, the flow turns back within 0.03; before, it is straight and tempts to leap over that.
    end = exact_flow(flow, start, 1.0, 0.001, rtol=1e-6, max_step=0.01)
    distances = torch.cdist(end, data.means)
    assert (distances.min(1).values < 4 * 0.01).all()
    # The second coordinate keeps its order, so each data mode gets exactly what its source mode held.
    torch.testing.assert_close(distances.argmin(1), (start[:, 1] > 0).long())
    share = (distances.argmin(1) == 1).double().mean().item()
    assert share == pytest.approx(0.5, abs=4 * 0.5 / num**0.5)
    for mode in range(2):
        spread = (end - data.means[mode])[distances.argmin(1) == mode].std(0)
        torch.testing.assert_close(spread, levels(0.01, 0.01), rtol=0.2, atol=0)


# Finite data ------------------------------------------------------------------------------------------------------


@each_process
def test_finite_data_equals_brute_force(levels, process, rng):
    oracle = FiniteData(process=process, examples=POINTS)
    for sigma in own_levels(process)[1:]:
        path = process.coefficients(sigma[None])
        a, b = path.data.item(), path.noise.item()
        for x in process.add_noise(POINTS, torch.randn(5, 2, generator=rng, dtype=DOUBLE), sigma.expand(5)):
            exponents = [-((x - a * point) ** 2).sum().item() / (2 * b * b) for point in POINTS]
            masses = [math.exp(exponent - max(exponents)) for exponent in exponents]
            denoised = sum(mass * point for mass, point in zip(masses, POINTS, strict=True)) / sum(masses)
            density = math.log(sum(masses) / 5 / (2 * math.pi * b * b)) + max(exponents)
            torch.testing.assert_close(oracle.denoised(x[None], sigma[None])[0], denoised)
            torch.testing.assert_close(oracle.log_density(x[None], sigma[None]), levels(density))


@each_process
def test_finite_data_is_the_mixture_without_width(process, rng):
    finite = FiniteData(process=process, examples=POINTS)
    mixture = MixtureFlow(process=process, data=GaussianMixture(means=POINTS, std=0.0))
    for sigma in own_levels(process)[1:]:
        x, level = draw(mixture, 7, sigma, rng)[0], sigma.expand(7)
        for name in ("denoised", "velocity", "score", "log_density"):
            expected = getattr(mixture, name)(x, level)
            torch.testing.assert_close(getattr(finite, name)(x, level), expected, rtol=1e-6, atol=1e-8)


@each_process
def test_score_of_finite_data_equals_the_gradient_of_the_log_density(process, rng):
    oracle, sigma = FiniteData(process=process, examples=POINTS), own_levels(process)[2].expand(5)
    x = process.add_noise(POINTS, torch.randn(5, 2, generator=rng, dtype=DOUBLE), sigma).requires_grad_()
    (expected,) = torch.autograd.grad(oracle.log_density(x, sigma).sum(), x)
    torch.testing.assert_close(oracle.score(x.detach(), sigma), expected)


@each_process
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_finite_data_tends_to_the_nearest_example_and_to_the_mean(process, dtype, rng):
    oracle = FiniteData(process=process, examples=POINTS.to(dtype))
    x = torch.randn(20, 2, generator=rng, dtype=dtype)
    nearest = POINTS.to(dtype)[torch.cdist(x, POINTS.to(dtype)).argmin(1)]
    low = torch.full((20,), 1e-5, dtype=dtype)
    state = process.add_noise(x, torch.zeros_like(x), low)
    torch.testing.assert_close(oracle.denoised(state, low), nearest)
    assert oracle.score(state, low).isfinite().all()
    far = FiniteData(process=VarianceExploding(), examples=POINTS.to(dtype))
    mean = POINTS.to(dtype).mean(0).expand(20, 2)
    torch.testing.assert_close(far.denoised(x, torch.full((20,), 1e4, dtype=dtype)), mean, rtol=0, atol=1e-6)


def test_finite_data_at_the_pure_noise_end_is_the_mean_whatever_the_state(levels, rng):
    x = torch.randn(4, 2, generator=rng, dtype=DOUBLE)
    oracle = FiniteData(process=Linear(), examples=POINTS)
    got = oracle.expectation(x, levels(1, 1, 1, 1))
    torch.testing.assert_close(got.data, POINTS.mean(0).expand(4, 2))
    torch.testing.assert_close(got.velocity, x - POINTS.mean(0))


def test_finite_images_are_their_pixels(levels, rng):
    examples, x = torch.randn(2, 6, 1, 2, 2, generator=rng, dtype=DOUBLE)
    sigma = levels(0.1, 0.2, 0.3, 0.5, 0.9, 1.0)
    image = FiniteData(process=TrigFlow(), examples=examples).velocity(x, sigma)
    flat = FiniteData(process=TrigFlow(), examples=examples.flatten(1)).velocity(x.flatten(1), sigma)
    torch.testing.assert_close(image.flatten(1), flat)


# Transport cost of the papers' toys -------------------------------------------------------------------------------


@pytest.mark.parametrize("toy", ["2m-2m", "1m-2m"])
def test_transport_costs_of_the_toys_equal_the_reference_numbers(levels, toy, golden):
    expected, num = golden("transport_cost")[toy], 512
    independent, optimal = [], []
    for seed in range(6):
        rng = torch.Generator().manual_seed(seed)
        data = TWO_DATA_MODES.sample(num, rng)
        if toy == "2m-2m":
            source = TWO_SOURCE_MODES.sample(num, rng)
            # A point whose mode is too full on the other side pays 8 instead of 4; balanced modes never do.
            imbalance = 4 * abs((data[:, 1] > 0).sum().item() - (source[:, 1] > 0).sum().item()) / num
        else:
            source = torch.randn(num, 2, generator=rng, dtype=DOUBLE) * levels(0.01, 0.5) + levels(-1.0, 0.0)
            imbalance = 0.0
        costs = torch.cdist(data, source).square().numpy()
        independent.append(costs.mean())
        optimal.append(costs[optimize.linear_sum_assignment(costs)].mean() - imbalance)
    # All pairs of 512 points: the means of both sides matter, their standard errors are 0.04 and 0.02 a seed.
    assert np.mean(independent) == pytest.approx(expected["independent"], abs=0.03)
    assert np.mean(optimal) == pytest.approx(expected["optimal"], abs=0.01 if toy == "2m-2m" else 0.03)


@each_source
def test_flow_map_costs_less_than_independent_coupling(source, rng):
    flow, num = MixtureFlow(process=Linear(), data=TRIANGLE, source=source), 500
    start = flow.noise.sample(num, rng)
    end = exact_flow(flow, start, 1.0, 0.001, rtol=1e-6)
    costs = torch.cdist(TRIANGLE.sample(num, rng), start).square()
    assert (end - start).square().sum(1).mean() < 0.9 * costs.mean()
    torch.testing.assert_close(
        end.mean(0), TRIANGLE.weights @ TRIANGLE.means, rtol=0, atol=5 * end.std().item() / num**0.5
    )
