"""Forward processes against their formulas, and against each other."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn

from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import (
    Bridge,
    ConditionalOT,
    Linear,
    TrigFlow,
    VarianceExploding,
    karras_grid,
    processes,
)
from gcsearch.science.schedules import InverseGap, Lognormal

SIGMAS = [0.002, 0.0137, 0.3, 1.0, 7.5, 80.0]

ALL = [
    pytest.param(process, id="-".join(filter(None, [process.name, getattr(process, "conditioning", "")])))
    for process in (
        VarianceExploding(),
        Bridge(),
        Bridge(conditioning="unit_variance"),
        Linear(),
        Linear(conditioning="unit_variance"),
        ConditionalOT(),
        TrigFlow(),
    )
]
UNIT_VARIANCE = [param for param in ALL if getattr(param.values[0], "conditioning", "unit_variance") == "unit_variance"]


def levels(dtype=torch.float64):
    return torch.tensor(SIGMAS, dtype=dtype)


def own_levels(process, num=7):
    """Levels of the process itself, both ends included."""
    return process.grid(num).double()


class Mixer(nn.Module):
    """A network that depends on its input and on the level."""

    def forward(self, x, conditioning, dropout=None):
        del dropout
        return (x + conditioning[:, None]).sin()


@pytest.mark.parametrize("num_levels", [2, 11, 21, 160])
@pytest.mark.parametrize(("sigma_min", "sigma_max", "rho"), [(0.002, 80.0, 7.0), (0.001, 5.0, 7.0), (0.01, 1.0, 3.0)])
def test_grid_equals_a_loop_over_the_formula(num_levels, sigma_min, sigma_max, rho):
    expected = []
    for index in range(num_levels):
        low, high = math.pow(sigma_min, 1 / rho), math.pow(sigma_max, 1 / rho)
        expected.append(math.pow(low + index / (num_levels - 1) * (high - low), rho))
    grid = karras_grid(num_levels, sigma_min, sigma_max, rho)
    torch.testing.assert_close(grid, torch.tensor(expected), rtol=2e-7, atol=0)


def test_grid_with_unit_rho_is_evenly_spaced():
    torch.testing.assert_close(karras_grid(5, 1.0, 3.0, 1.0), torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0]))


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


def test_bridge_with_unit_variance_is_the_variance_exploding_function_up_to_the_boundary(rng):
    exploding = VarianceExploding(sigma_min=1e-6)
    bridge = Bridge(sigma_min=1e-6, conditioning="unit_variance")
    noisy = torch.randn(len(SIGMAS), 3, generator=rng, dtype=torch.float64) * levels()[:, None]
    expected = ConsistencyFunction(Mixer(), exploding)(noisy, levels())
    got = ConsistencyFunction(Mixer(), bridge)(noisy / (1 + levels()[:, None]), levels())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_bridge_with_ve_on_tau_is_another_function(rng):
    noisy = torch.randn(len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    first, second = (
        ConsistencyFunction(Mixer(), Bridge(conditioning=conditioning))(noisy, levels())
        for conditioning in ("ve_on_tau", "unit_variance")
    )
    assert (first - second).abs().max() > 1e-2


@pytest.mark.parametrize("process", UNIT_VARIANCE)
def test_network_sees_unit_variance(process):
    coefficients = process.coefficients(own_levels(process))
    preconditioning = process.preconditioning(own_levels(process))
    variance = coefficients.data.square() * process.sigma_data**2 + coefficients.noise.square()
    torch.testing.assert_close(preconditioning.scale.square() * variance, torch.ones_like(variance))


@pytest.mark.parametrize("process", UNIT_VARIANCE)
def test_network_target_has_unit_variance_away_from_the_boundary(process):
    sigma = own_levels(process)
    process = dataclasses.replace(process, sigma_min=1e-7)
    path, weights = process.coefficients(sigma), process.preconditioning(sigma)
    # data = skip noisy + out target, with data ~ N(0, sigma_data^2) and noise ~ N(0, 1)
    residual = (1 - weights.skip * path.data).square() * process.sigma_data**2 + (weights.skip * path.noise).square()
    torch.testing.assert_close(residual / weights.out.square(), torch.ones_like(sigma), rtol=2e-3, atol=0)


def test_renoising_is_the_formula_of_multistep_sampling(rng):
    estimate, noise = torch.randn(2, len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    for row, sigma in enumerate(SIGMAS):
        expected = estimate[row] + math.sqrt(sigma**2 - 0.002**2) * noise[row]
        got = VarianceExploding().renoise(estimate[row : row + 1], noise[row : row + 1], levels()[row : row + 1])
        torch.testing.assert_close(got[0], expected)


def test_variance_exploding_initial_state_is_sigma_max_times_noise(rng):
    noise = torch.randn(4, 1, 8, 8, generator=rng)
    torch.testing.assert_close(VarianceExploding().initial_state(noise), 80 * noise)


@pytest.mark.parametrize("cls", [VarianceExploding, Bridge, Linear, ConditionalOT, TrigFlow])
@pytest.mark.parametrize(
    ("field", "value"),
    [("sigma_min", 0.0), ("sigma_min", 80.0), ("sigma_max", 0.001), ("sigma_data", 0), ("rho", -1.0)],
)
def test_meaningless_levels_are_rejected_by_name(cls, field, value):
    with pytest.raises(ValueError, match=r"must be > .*, got"):
        cls(**{field: float(value)})


def test_noise_of_another_batch_size_is_an_error_and_does_not_broadcast():
    with pytest.raises(Exception, match="noise"):
        VarianceExploding().add_noise(torch.zeros(4, 2), torch.zeros(1, 2), torch.ones(4))


# All processes ----------------------------------------------------------------------------------------------------


def test_every_registered_process_is_tested_here():
    assert {param.values[0].name for param in ALL} == set(processes)


@pytest.mark.parametrize("process", ALL)
def test_derivatives_by_the_level_equal_autograd_on_the_levels_of_the_process(process):
    sigma = own_levels(process, 30).requires_grad_()
    got = process.coefficients(sigma)
    for value, derivative in ((got.data, got.data_derivative), (got.noise, got.noise_derivative)):
        (expected,) = torch.autograd.grad((value + 0 * sigma).sum(), sigma, retain_graph=True)
        torch.testing.assert_close(derivative, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("process", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 17, 64])
def test_boundary_is_exact_at_any_smallest_level_scale_of_data_and_batch_size(process, dtype, batch_size, rng):
    x = torch.randn(batch_size, 2, generator=rng, dtype=dtype)
    for sigma_min in (1e-4, 0.002, 1 / 3, 0.7):
        for sigma_data in (0.5, 1.3):
            changed = dataclasses.replace(process, sigma_min=sigma_min, sigma_data=sigma_data)
            sigma = torch.full((batch_size,), sigma_min, dtype=dtype)
            torch.testing.assert_close(ConsistencyFunction(Mixer(), changed)(x, sigma), x, rtol=0, atol=0)


@pytest.mark.parametrize("process", ALL)
def test_signal_to_noise_ratio_falls_over_the_levels_of_the_process(process):
    path = process.coefficients(own_levels(process, 200))
    assert ((path.noise / path.data).diff() > 0).all()
    assert (path.data * path.noise_derivative - path.data_derivative * path.noise > 0).all()


@pytest.mark.parametrize("process", UNIT_VARIANCE)
def test_input_and_target_of_simulated_pairs_have_unit_variance(process, rng):
    process, num = dataclasses.replace(process, sigma_min=1e-6), 100_000
    data = process.sigma_data * torch.randn(num, 1, generator=rng, dtype=torch.float64)
    noise = torch.randn(num, 1, generator=rng, dtype=torch.float64)
    for level in own_levels(process)[[2, 4, 6]]:
        noisy = process.add_noise(data, noise, level.expand(num))
        weights = process.preconditioning(level[None])
        target = (data - weights.skip * noisy) / weights.out
        # The variance of n normal numbers is known to sqrt(2 / n) = 0.0045.
        assert (weights.scale * noisy).var().item() == pytest.approx(1, abs=0.02)
        assert target.var().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("process", ALL)
def test_state_over_a_is_the_variance_exploding_state_at_level_b_over_a(process, rng):
    sigma = own_levels(process)[:-1]  # at the last level of the straight paths a is 0
    data, noise = torch.randn(2, len(sigma), 3, generator=rng, dtype=torch.float64)
    path = process.coefficients(sigma)
    expected = VarianceExploding().add_noise(data, noise, path.noise / path.data)
    torch.testing.assert_close(process.add_noise(data, noise, sigma) / path.data[:, None], expected)


@pytest.mark.parametrize("process", [VarianceExploding(), Bridge(), TrigFlow()])
def test_processes_that_share_the_level_share_the_signal_to_noise_ratio(process):
    path = process.coefficients(levels())
    torch.testing.assert_close(path.noise / path.data, levels())


@pytest.mark.parametrize("process", UNIT_VARIANCE)
def test_unit_variance_preconditionings_are_one_function_of_the_signal_to_noise_ratio(process, rng):
    sigma = own_levels(process)[1:-1]
    process = dataclasses.replace(process, sigma_min=1e-7)
    exploding = VarianceExploding(sigma_min=1e-7)
    path = process.coefficients(sigma)
    ratio = path.noise / path.data
    x = ratio[:, None] * torch.randn(len(sigma), 3, generator=rng, dtype=torch.float64)
    same, ours = exploding.preconditioning(ratio), process.preconditioning(sigma)
    # Input, skip and network of x under `ve`, and of the same state a x under the process.
    torch.testing.assert_close(ours.scale * path.data, same.scale)
    torch.testing.assert_close(ours.skip * path.data, same.skip, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.out.abs(), same.out, rtol=1e-4, atol=1e-6)
    # With a network that is told nothing of the level, and is odd, so that the sign of `trig` can be undone.
    sign = -1 if process.name == "trig" else 1
    outer = ConsistencyFunction(Odd(sign), process)(path.data[:, None] * x, sigma)
    torch.testing.assert_close(outer, ConsistencyFunction(Odd(1), exploding)(x, ratio), rtol=1e-4, atol=1e-5)


class Odd(nn.Module):
    """A network blind to the level, with a sign."""

    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def forward(self, x, conditioning, dropout=None):
        del conditioning, dropout
        return self.sign * x.sin()


@pytest.mark.parametrize("process", ALL)
def test_renoising_simulated_states_keeps_the_marginal_of_the_level(process, rng):
    num, process = 100_000, dataclasses.replace(process, sigma_min=0.2)
    data = 0.3 + 0.5 * torch.randn(num, 1, generator=rng, dtype=torch.float64)
    first, second = torch.randn(2, num, 1, generator=rng, dtype=torch.float64)
    estimate = process.add_noise(data, first, torch.full((num,), 0.2, dtype=torch.float64))
    for level in own_levels(process)[[0, 3, 6]]:
        state = process.renoise(estimate, second, level.expand(num))
        path = process.coefficients(level[None])
        spread = (0.25 * path.data**2 + path.noise**2).sqrt().item()
        assert state.mean().item() == pytest.approx(0.3 * path.data.item(), abs=5 * spread / num**0.5)
        assert state.std().item() == pytest.approx(spread, rel=0.015)


@pytest.mark.parametrize("process", ALL)
def test_renoising_to_the_smallest_level_changes_nothing(process, rng):
    estimate, noise = torch.randn(2, 5, 2, generator=rng)
    sigma = torch.full((5,), process.sigma_min)
    torch.testing.assert_close(process.renoise(estimate, noise, sigma), estimate, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("process", "factor"),
    [
        (VarianceExploding(), 80),
        (Bridge(), 80 / 81),
        (Linear(), 1),
        (Linear(sigma_max=0.9), 0.9),
        (ConditionalOT(), 80),
        (TrigFlow(), 0.5 * math.sin(math.atan(160))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_initial_state_is_noise_of_the_published_size(process, factor, dtype, rng):
    noise = torch.randn(4, 2, generator=rng, dtype=dtype)
    rtol = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(process.initial_state(noise), factor * noise, rtol=rtol, atol=0)


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
    sigma = own_levels(Linear())
    first = ConditionalOT(sigma_min=0.001, sigma_max=1.0, rho=3.0)
    second = Linear(conditioning="unit_variance")
    for got, expected in (
        (first.coefficients(sigma), second.coefficients(sigma)),
        (first.preconditioning(sigma), second.preconditioning(sigma)),
    ):
        torch.testing.assert_close(dataclasses.asdict(got), dataclasses.asdict(expected))


def test_conditional_ot_function_equals_its_formulas(rng):
    noisy = torch.randn(len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    got = ConsistencyFunction(Mixer(), ConditionalOT())(noisy, levels())
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
def test_trig_function_equals_its_formula(sigma_data, rng):
    noisy = torch.randn(len(SIGMAS), 3, generator=rng, dtype=torch.float64)
    got = ConsistencyFunction(Mixer(), TrigFlow(sigma_data=sigma_data))(noisy, levels())
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
