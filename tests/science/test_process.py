"""Forward processes against their formulas, and against each other."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import Bridge, VarianceExploding, karras_grid

SIGMAS = [0.002, 0.0137, 0.3, 1.0, 7.5, 80.0]


def levels(dtype=torch.float64):
    return torch.tensor(SIGMAS, dtype=dtype)


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


@pytest.mark.parametrize("process", [VarianceExploding(), Bridge(conditioning="unit_variance")])
def test_network_sees_unit_variance(process):
    coefficients, preconditioning = process.coefficients(levels()), process.preconditioning(levels())
    variance = coefficients.data.square() * process.sigma_data**2 + coefficients.noise.square()
    torch.testing.assert_close(preconditioning.scale.square() * variance, torch.ones_like(variance))


@pytest.mark.parametrize("process", [VarianceExploding(), Bridge(conditioning="unit_variance")])
def test_network_target_has_unit_variance_away_from_the_boundary(process):
    process = dataclasses.replace(process, sigma_min=1e-6)
    sigma = levels()
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


@pytest.mark.parametrize("cls", [VarianceExploding, Bridge])
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
