"""The four measurements of a coupling, against closed forms and independent computations."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, vmap

from gcsearch.science.conversions import Estimate
from gcsearch.science.couplings import EndPoints, Generator, Unpaired
from gcsearch.science.diagnostics import gradient_variance, ode_distance, path_deviation, transport_cost
from gcsearch.science.flows import Flow
from gcsearch.science.objectives import Models, Pairs
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.science.objectives.denoising import Denoising
from gcsearch.science.oracles import (
    ExactConsistency,
    FiniteData,
    GaussianMixture,
    MixtureFlow,
    contraction,
    proxy_generator,
    proxy_independent,
)
from gcsearch.science.oracles import transport_cost as expected_cost
from gcsearch.science.preconditioning import ConsistencyFunction, per_example
from gcsearch.science.process import Bridge, Linear, TrigFlow, VarianceExploding
from gcsearch.science.schedules import Fixed, Uniform

DOUBLE = torch.float64
MEAN, STD = torch.tensor([0.3, -0.8], dtype=DOUBLE), 0.5
NORMAL = GaussianMixture(means=MEAN[None], std=STD)
PROCESS = VarianceExploding()


def generated(sigma, num, rng):
    """End points that the exact map of one Gaussian generates at one level."""
    levels = torch.full((num,), sigma, dtype=DOUBLE)
    noise = torch.randn(num, 2, dtype=DOUBLE, generator=rng)
    batch = Unpaired(
        data=NORMAL.sample(num, rng),
        noise=noise,
        sigma_lower=levels,
        process=PROCESS,
        predictors={"ema": ExactConsistency(PROCESS, MEAN, STD)},
        chosen=torch.arange(num),
    )
    return Generator(mu=1.0).pair(batch), levels


class GeneratedFlow(Flow):
    """Flow of the paths between exactly generated end points: jointly normal, so linear in the state."""

    process = PROCESS

    def expectation(self, noisy, sigma):
        slope = per_example(contraction(sigma, STD, PROCESS.sigma_min), noisy)
        level = per_example(sigma, noisy)
        variance = (slope * STD).square() + ((1 + slope) * level).square()
        noise = (1 + slope) * level / variance * (noisy - MEAN)
        return Estimate(data=noisy - level * noise, noise=noise, coefficients=self.process.coefficients(sigma))


# Gradient variance ------------------------------------------------------------------------------------------------


def test_gradient_variance_is_the_trace_of_the_sample_covariance(rng):
    gradients = [[torch.randn(3, 2, generator=rng) + 5, torch.randn(4, generator=rng)] for _ in range(7)]
    matrix = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in gradients]).double()
    assert gradient_variance(iter(gradients)) == pytest.approx(matrix.T.cov().trace().item(), rel=1e-6)


def test_gradient_variance_of_equal_gradients_is_zero_and_of_one_is_refused():
    assert gradient_variance([[torch.full((3,), 1e6)]] * 5) == 0
    with pytest.raises(ValueError, match="at least 2, got 1"):
        gradient_variance([[torch.zeros(3)]])


def test_gradient_variance_of_independent_coupling_is_the_per_example_one_over_the_batch_size(
    recipe, draws_for, perceptrons, models_of, rng
):
    online, ema = perceptrons(dtype=DOUBLE, width=8)
    parts, batch_size, num = recipe(timesteps=Fixed(num_levels=6), levels=Uniform()), 16, 80
    models = models_of(PROCESS, online, ema)

    def batches():
        for position in range(num):
            data = torch.randn(batch_size, 2, generator=rng, dtype=DOUBLE)
            yield data, draws_for(batch_size, step=position, dtype=DOUBLE)

    drawn = list(batches())

    def gradients():
        for data, draws in drawn:
            loss = Consistency()(parts, models, data, draws, 0, 10).loss
            yield torch.autograd.grad(loss, list(online.parameters()))

    between = gradient_variance(gradients())

    weights = {name: weight.detach() for name, weight in online.named_parameters()}

    def loss_of_one(weights, data, draws_noise, lower_level, upper_level):
        def function(noisy, sigma):
            coefficients = PROCESS.preconditioning(sigma)
            output = functional_call(online, weights, (coefficients.scale * noisy, coefficients.conditioning))
            return coefficients.skip * noisy + coefficients.out * output

        lower, upper = (data + level * draws_noise for level in (lower_level, upper_level))
        target = function(lower[None], lower_level[None]).detach()
        distance = parts.distance(function(upper[None], upper_level[None]), target)[0]
        return distance / (upper_level - lower_level)

    moments = []
    per_example_gradient = vmap(grad(loss_of_one), in_dims=(None, 0, 0, 0, 0))
    for data, draws in drawn:
        lower, upper = parts.timesteps.pair(draws.level_uniforms, PROCESS, parts.levels, 0, 10)
        got = per_example_gradient(weights, data, draws.noise, lower.double(), upper.double())
        moments.append(torch.cat([part.flatten(1) for part in got.values()], dim=1))
    samples = torch.cat(moments)
    within = samples.var(dim=0).sum().item() / batch_size
    assert between == pytest.approx(within, rel=0.35)  # 80 batches: about 11 % of error


# End points -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_transport_cost_of_generated_end_points_is_the_closed_form(sigma, rng):
    ends, levels = generated(sigma, 100_000, rng)
    cost = transport_cost(ends)
    error = cost.std() / len(cost) ** 0.5
    assert abs(cost.mean() - expected_cost(levels[:1], MEAN, STD, PROCESS.sigma_min)) < 5 * error


@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_path_deviation_is_the_closed_form_under_independent_coupling(sigma, rng):
    num = 100_000
    ends = EndPoints(data=NORMAL.sample(num, rng), noise=torch.randn(num, 2, dtype=DOUBLE, generator=rng))
    levels = torch.full((num,), sigma, dtype=DOUBLE)
    deviation = path_deviation(ends, levels, MixtureFlow(process=PROCESS, data=NORMAL))
    error = deviation.std() / num**0.5
    assert abs(deviation.mean() - proxy_independent(levels[:1], STD, 2)) < 5 * error


@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_path_deviation_is_the_closed_form_under_generated_end_points_and_larger_with_another_flow(sigma, rng):
    ends, levels = generated(sigma, 100_000, rng)
    deviation = path_deviation(ends, levels, GeneratedFlow())
    error = deviation.std() / len(deviation) ** 0.5
    assert abs(deviation.mean() - proxy_generator(levels[:1], STD, 2, PROCESS.sigma_min)) < 5 * error
    other = path_deviation(ends, levels, MixtureFlow(process=PROCESS, data=NORMAL))
    assert other.mean() > deviation.mean() + 5 * error


@pytest.mark.parametrize("process", [VarianceExploding(), Bridge(), Linear(), TrigFlow()])
def test_paths_to_one_point_are_the_flow_itself(process, rng):
    point = torch.tensor([[0.4, -0.2]], dtype=DOUBLE)
    flow = FiniteData(process=process, examples=point)
    ends = EndPoints(data=point.expand(50, 2), noise=torch.randn(50, 2, dtype=DOUBLE, generator=rng))
    upper = torch.linspace(0.1, process.sigma_max, 50, dtype=DOUBLE)
    torch.testing.assert_close(path_deviation(ends, upper, flow), torch.zeros(50, dtype=DOUBLE), rtol=0, atol=1e-16)
    straight = process.name in ("ve", "linear")
    distance = ode_distance(Pairs(ends=ends, sigma_lower=0.9 * upper, sigma_upper=upper), flow)
    assert (distance < 1e-12).all().item() is straight


def test_ode_distance_is_the_gap_times_the_difference_of_slopes_on_straight_paths(rng):
    flow, num = MixtureFlow(process=PROCESS, data=NORMAL), 40
    ends = EndPoints(data=NORMAL.sample(num, rng), noise=torch.randn(num, 2, dtype=DOUBLE, generator=rng))
    upper = torch.linspace(0.1, 10, num, dtype=DOUBLE)
    for share in (0.5, 0.9):
        distance = ode_distance(Pairs(ends=ends, sigma_lower=share * upper, sigma_upper=upper), flow)
        expected = (1 - share) * upper * path_deviation(ends, upper, flow).sqrt()
        torch.testing.assert_close(distance, expected)


# Denoising --------------------------------------------------------------------------------------------------------


def test_denoising_loss_of_the_exact_denoiser_is_the_variance_that_is_left(recipe, draws_for, rng):
    class Exact(ConsistencyFunction):
        def __call__(self, noisy, sigma, dropout_seed=None):
            return NORMAL.denoised(noisy, sigma)

    num = 100_000
    exact = Exact(torch.nn.Identity(), PROCESS)
    draws = draws_for(num, dtype=DOUBLE)
    parts = recipe(levels=Uniform())
    loss = Denoising()(parts, Models(online=exact, ema=exact), NORMAL.sample(num, rng), draws, 0, 10).loss
    sigma = Uniform().quantile(draws.level_uniforms, PROCESS).double()
    # posterior variance s^2 sigma^2 / (s^2 + sigma^2), weighted by (sigma_data^2 + sigma^2) / (sigma sigma_data)^2
    left = STD**2 / (STD**2 + sigma**2) * (PROCESS.sigma_data**2 + sigma**2) / PROCESS.sigma_data**2
    assert loss.item() == pytest.approx(left.mean().item(), rel=0.02)
