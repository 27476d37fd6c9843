"""Laws of all forward processes: their grids, boundaries, variances and renoising."""

from __future__ import annotations

import dataclasses
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


def own_levels(process, num=7):
    """Levels of the process itself, both ends included."""
    return process.grid(num).double()


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
def test_boundary_is_exact_at_any_smallest_level_scale_of_data_and_batch_size(mixer, process, dtype, batch_size, rng):
    x = torch.randn(batch_size, 2, generator=rng, dtype=dtype)
    for sigma_min in (1e-4, 0.002, 1 / 3, 0.7):
        for sigma_data in (0.5, 1.3):
            changed = dataclasses.replace(process, sigma_min=sigma_min, sigma_data=sigma_data)
            sigma = torch.full((batch_size,), sigma_min, dtype=dtype)
            torch.testing.assert_close(ConsistencyFunction(mixer, changed)(x, sigma), x, rtol=0, atol=0)


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
