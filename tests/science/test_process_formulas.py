"""Each forward process against its formulas, and against its neighbours."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import (
    Bridge,
    ConditionalOT,
    Linear,
    TrigFlow,
    VarianceExploding,
)
from gcsearch.science.schedules import InverseGap, Lognormal

SIGMAS = [0.002, 0.0137, 0.3, 1.0, 7.5, 80.0]


def levels(dtype=torch.float64):
    return torch.tensor(SIGMAS, dtype=dtype)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_variance_exploding_preconditioning_equals_the_published_formulas(sigma_data):
    process = VarianceExploding(sigma_data=sigma_data)
    got = process.preconditioning(levels())
    for row, sigma in enumerate(SIGMAS):
        shifted = sigma - 0.002
        expected = [
            sigma_data**2 / (shifted**2 + sigma_data**2),
            sigma_data * shifted / math.sqrt(sigma_data**2 + sigma**2),
            1 / math.sqrt(sigma_data**2 + sigma**2),
            math.log(sigma) / 4,
        ]
        values = torch.stack([got.skip[row], got.out[row], got.scale[row], got.conditioning[row]])
        torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


def test_bridge_ve_on_tau_puts_tau_into_the_variance_exploding_formulas():
    got = Bridge(conditioning="ve_on_tau").preconditioning(levels())
    boundary = 0.002 / 1.002
    for row, sigma in enumerate(SIGMAS):
        tau = sigma / (1 + sigma)
        expected = [
            0.25 / ((tau - boundary) ** 2 + 0.25),
            0.5 * (tau - boundary) / math.sqrt(0.25 + tau**2),
            1 / math.sqrt(0.25 + tau**2),
            math.log(tau) / 4,
        ]
        values = torch.stack([got.skip[row], got.out[row], got.scale[row], got.conditioning[row]])
        torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


def test_bridge_trains_on_the_published_range_of_tau():
    noise = Bridge().coefficients(torch.tensor([0.002, 80.0])).noise
    torch.testing.assert_close(noise, torch.tensor([0.001996, 0.98765]), rtol=1e-5, atol=0)


def test_bridge_state_is_the_variance_exploding_state_over_one_plus_sigma(rng):
    data, noise = torch.randn(2, len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    exploding = VarianceExploding().add_noise(data, noise, levels())
    torch.testing.assert_close(Bridge().add_noise(data, noise, levels()), exploding / (1 + levels()[:, None]))


def test_bridge_with_unit_variance_is_the_variance_exploding_function_up_to_the_boundary(mixer, rng):
    exploding = VarianceExploding(sigma_min=1e-6)
    bridge = Bridge(sigma_min=1e-6, conditioning="unit_variance")
    noisy = torch.randn(len(SIGMAS), 3, generator=rng, dtype=torch.float64) * levels()[:, None]
    expected = ConsistencyFunction(mixer, exploding)(noisy, levels())
    got = ConsistencyFunction(mixer, bridge)(noisy / (1 + levels()[:, None]), levels())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_bridge_with_ve_on_tau_is_another_function(mixer, rng):
    noisy = torch.randn(len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    first, second = (
        ConsistencyFunction(mixer, Bridge(conditioning=conditioning))(noisy, levels())
        for conditioning in ("ve_on_tau", "unit_variance")
    )
    assert (first - second).abs().max() > 1e-2


def test_renoising_is_the_formula_of_multistep_sampling(rng):
    estimate, noise = torch.randn(2, len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    for row, sigma in enumerate(SIGMAS):
        expected = estimate[row] + math.sqrt(sigma**2 - 0.002**2) * noise[row]
        got = VarianceExploding().renoise(estimate[row : row + 1], noise[row : row + 1], levels()[row : row + 1])
        torch.testing.assert_close(got[0], expected)


def test_variance_exploding_initial_state_is_sigma_max_times_noise(rng):
    noise = torch.randn(4, 1, 8, 8, generator=rng)
    torch.testing.assert_close(VarianceExploding().initial_state(noise), 80 * noise)


@pytest.mark.parametrize("process", [VarianceExploding(), Bridge(), TrigFlow()])
def test_processes_that_share_the_level_share_the_signal_to_noise_ratio(process):
    path = process.coefficients(levels())
    torch.testing.assert_close(path.noise / path.data, levels())


# Straight paths ---------------------------------------------------------------------------------------------------


def test_linear_equals_the_gaussian_bridge_of_the_first_paper(golden):
    reference, process = golden("gaussian_bridge"), Linear()
    grid = process.grid(reference["num_levels"])
    for row in reference["rows"]:
        assert grid[row["index"]].item() == pytest.approx(row["u"], rel=1e-6)
        got = process.preconditioning(torch.tensor([row["u"]], dtype=torch.float64))
        values = torch.cat([got.skip, got.out, got.scale, got.conditioning])
        expected = torch.tensor([row[key] for key in ("skip", "out", "scale", "conditioning")], dtype=torch.float64)
        torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-15)


def test_linear_state_moves_from_data_to_noise_at_unit_speed(rng):
    data, noise = torch.randn(2, 3, 2, generator=rng, dtype=torch.float64)
    sigma = torch.tensor([0.001, 0.25, 1.0], dtype=torch.float64)
    expected = torch.stack([(1 - u) * data[row] + u * noise[row] for row, u in enumerate((0.001, 0.25, 1.0))])
    torch.testing.assert_close(Linear().add_noise(data, noise, sigma), expected)
    torch.testing.assert_close(Linear().add_noise(data, noise, sigma)[2], noise[2], rtol=0, atol=0)
    path = Linear().coefficients(sigma)
    assert path.data_derivative.tolist() == [-1, -1, -1]
    assert path.noise_derivative.tolist() == [1, 1, 1]


def test_proposal_and_weight_of_linear_act_on_u():
    grid = [(0.1 + index / 30 * 0.9) ** 3 for index in range(31)]
    mass = [math.erf((math.log(u) + 1.1) / math.sqrt(8)) for u in grid]
    expected = torch.tensor(mass, dtype=torch.float64).diff()
    levels_of_linear = Linear().grid(31)
    got = Lognormal().probabilities(levels_of_linear)
    torch.testing.assert_close(got, expected / expected.sum(), rtol=1e-4, atol=0)
    weight = InverseGap().weight(levels_of_linear[:-1], levels_of_linear[1:])
    torch.testing.assert_close(
        weight, torch.tensor([1 / (b - a) for a, b in itertools.pairwise(grid)]), rtol=1e-3, atol=0
    )


def test_linear_beyond_pure_noise_is_rejected():
    with pytest.raises(ValueError, match="sigma_max must be <= 1 for the process 'linear', got 80"):
        Linear(sigma_max=80.0)


@pytest.mark.parametrize("process", [Linear(conditioning="unit_variance"), ConditionalOT()])
def test_unit_variance_on_a_straight_path_ignores_pure_noise(process):
    end = process.preconditioning(torch.tensor([process.sigma_max], dtype=torch.float64))
    torch.testing.assert_close(end.skip, torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-12)


def test_conditional_ot_up_to_one_is_linear():
    sigma = Linear().grid(7).double()
    first = ConditionalOT(sigma_min=0.001, sigma_max=1.0, rho=3.0)
    second = Linear(conditioning="unit_variance")
    for got, expected in (
        (first.coefficients(sigma), second.coefficients(sigma)),
        (first.preconditioning(sigma), second.preconditioning(sigma)),
    ):
        torch.testing.assert_close(dataclasses.asdict(got), dataclasses.asdict(expected))


def test_conditional_ot_function_equals_its_formulas(mixer, rng):
    noisy = torch.randn(len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    got = ConsistencyFunction(mixer, ConditionalOT())(noisy, levels())
    for row, sigma in enumerate(SIGMAS):
        fade, fade_boundary = 1 - sigma / 80, 1 - (sigma - 0.002) / (80 - 0.002)
        scale = 1 / math.sqrt(0.25 * fade**2 + sigma**2)
        skip = 0.25 * fade_boundary / ((sigma - 0.002) ** 2 + 0.25 * fade_boundary**2)
        network = torch.sin(scale * noisy[row] + math.log(sigma) / 4)
        torch.testing.assert_close(got[row], skip * noisy[row] + (sigma - 0.002) * 0.5 * scale * network)


# TrigFlow ---------------------------------------------------------------------------------------------------------


def test_trig_state_and_velocity_equal_the_published_formulas(rng):
    data, noise = torch.randn(2, len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    path = TrigFlow().coefficients(levels())
    state = TrigFlow().add_noise(data, noise, levels())
    for row, sigma in enumerate(SIGMAS):
        angle, large = math.atan(sigma / 0.5), 0.5 * noise[row]
        torch.testing.assert_close(state[row], math.cos(angle) * data[row] + math.sin(angle) * large)
        velocity = path.data_derivative[row] * data[row] + path.noise_derivative[row] * noise[row]
        by_angle = velocity * 0.5 / math.cos(angle) ** 2  # d sigma / dt
        torch.testing.assert_close(by_angle, math.cos(angle) * large - math.sin(angle) * data[row])


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_trig_function_equals_its_formula(mixer, sigma_data, rng):
    noisy = torch.randn(len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    got = ConsistencyFunction(mixer, TrigFlow(sigma_data=sigma_data))(noisy, levels())
    smallest = math.atan(0.002 / sigma_data)
    for row, sigma in enumerate(SIGMAS):
        angle = math.atan(sigma / sigma_data)
        network = torch.sin(noisy[row] / sigma_data + angle)
        shifted = angle - smallest
        expected = math.cos(shifted) * noisy[row] - math.sin(shifted) * sigma_data * network
        torch.testing.assert_close(got[row], expected)


def test_trig_network_away_from_the_boundary_estimates_the_velocity_by_the_angle(rng):
    data, noise = torch.randn(2, len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    process = TrigFlow(sigma_min=1e-9)
    weights, state = process.preconditioning(levels()), process.add_noise(data, noise, levels())
    target = (data - weights.skip[:, None] * state) / weights.out[:, None]
    angle = (levels() / 0.5).atan()[:, None]
    torch.testing.assert_close(target, angle.cos() * noise - angle.sin() * data / 0.5, rtol=1e-5, atol=1e-5)


def test_trig_renoising_without_a_boundary_is_the_published_sampler(rng):
    estimate, noise = torch.randn(2, len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    angle = (levels() / 0.5).atan()[:, None]
    got = TrigFlow(sigma_min=1e-9).renoise(estimate, noise, levels())
    torch.testing.assert_close(got, angle.cos() * estimate + angle.sin() * 0.5 * noise)


def test_trig_reaches_the_published_largest_angle():
    assert TrigFlow().preconditioning(torch.tensor([80.0])).conditioning.item() == pytest.approx(1.5645, abs=1e-4)


def test_trig_in_single_precision_agrees_with_double_at_all_levels():
    # Without the first level: 0.002 is another number in double precision, where the boundary is not quite reached.
    single = TrigFlow().grid(200)[1:]
    for method in ("coefficients", "preconditioning"):
        got = dataclasses.asdict(getattr(TrigFlow(), method)(single))
        expected = dataclasses.asdict(getattr(TrigFlow(), method)(single.double()))
        for key, value in got.items():
            torch.testing.assert_close(value.double(), expected[key], rtol=2e-6, atol=0)
