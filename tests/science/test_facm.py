"""FACM: its anchor is flow matching, its consistency term rests on exact oracles, its two ways of being told."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.objectives import Models
from gcsearch.science.objectives.facm import AnchoredFunction, FlowAnchored, average_velocity_gap
from gcsearch.science.oracles import ExactConsistency, GaussianMixture, MixtureFlow
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import Bridge, Linear, TrigFlow, VarianceExploding
from gcsearch.science.schedules import Lognormal, Uniform
from gcsearch.science.teachers import TrainedBefore

STD, MEAN = 0.3, (0.2, -0.1)
PROCESS = Linear(sigma_min=0.01)
CONDITIONS = ("expanded", "auxiliary")


def flow():
    return MixtureFlow(process=PROCESS, data=GaussianMixture(means=torch.tensor([MEAN], dtype=torch.float64), std=STD))


class ExactVelocities(nn.Module):
    """Average velocity and velocity of N(MEAN, STD^2), told apart as FACM does."""

    def __init__(self, condition):
        super().__init__()
        self.condition = condition
        self.exact = ExactConsistency(PROCESS, torch.tensor(MEAN, dtype=torch.float64), STD)
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, told, dropout=None):
        del dropout
        if self.condition == "expanded":
            is_anchor, sigma = told > 1, (told - 1).abs()
        else:
            is_anchor, sigma = told[:, 0] == told[:, 1], 1 - told[:, 0]
        left = sigma - PROCESS.sigma_min
        average = (self.exact(x, sigma) - x) / torch.where(left == 0, 1.0, left)[:, None]
        expected = flow().expectation(x, sigma.clamp_min(PROCESS.sigma_min))
        return self.gain * torch.where(is_anchor[:, None], expected.data - expected.noise, average)


class ExactDenoiser(ConsistencyFunction):
    """The denoiser of the same data."""

    def __call__(self, noisy, sigma, dropout_seed=None):
        return flow().denoised(noisy, sigma)


@pytest.fixture
def step(recipe, draws_for, double):
    """The loss of one step for a network on Gaussian data."""

    def make(objective, network, num=256, levels=None):
        function = objective.function(network, PROCESS)
        models = Models(online=function, ema=function, teacher=ExactDenoiser(nn.Identity(), PROCESS))
        draws = draws_for(num, dtype=torch.float64)
        draws = dataclasses.replace(draws, level_uniforms=draws.level_uniforms.double())
        data = torch.tensor(MEAN, dtype=torch.float64) + STD * double(num, 2)
        parts = recipe(process=PROCESS, levels=levels or Lognormal(mean=-1.25, std=1.6))
        return objective(parts, models, data, draws, 3, 10)

    return make


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_derivative_is_that_of_the_consistency_function_along_the_path(condition, preconditioned, double):
    network = initialize(MLP(width=16), (2,), 0, 2 if condition == "auxiliary" else 1).double()
    function = AnchoredFunction(network, PROCESS, condition=condition, preconditioned=preconditioned)
    data, noise = double(5, 2), double(5, 2, seed=2)
    sigma = torch.tensor([0.02, 0.1, 0.4, 0.8, 1.0], dtype=torch.float64)

    def along(at):
        return function(PROCESS.add_noise(data, noise, at), at)

    step = 1e-6
    by_time = -(along(sigma + step) - along(sigma - step)) / (2 * step)  # t = 1 - u
    noisy = PROCESS.add_noise(data, noise, sigma)
    _, gap = average_velocity_gap(function, noisy, sigma, data - noise)
    torch.testing.assert_close(gap, -by_time, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_both_terms_rest_on_the_exact_velocities_of_the_followed_flow(condition, step):
    network = ExactVelocities(condition)
    objective = FlowAnchored(condition=condition, slope="teacher", teacher=TrainedBefore())
    loss = step(objective, network).loss
    loss.backward()
    assert loss.item() < 1e-10
    assert abs(network.gain.grad.item()) < 1e-5
    with torch.no_grad():
        network.gain.add_(0.1)
    for part in ({"consistency": 0.0}, {"anchor": 0.0}):
        network.gain.grad = None
        step(dataclasses.replace(objective, **part), network).loss.backward()
        assert network.gain.grad.item() > 1e-3


def test_anchor_of_single_samples_is_least_at_the_expected_velocity(step):
    network = ExactVelocities("expanded")
    objective = FlowAnchored(consistency=0.0, cosine=0.0)
    step(objective, network, num=100_000).loss.backward()
    noise_of_estimate = 0.02
    assert abs(network.gain.grad.item()) < noise_of_estimate
    network.gain.grad = None
    step(dataclasses.replace(objective, cosine=1.0), network, num=100_000).loss.backward()
    # Away from the flow only in its direction: the angle does not know the gain.
    assert abs(network.gain.grad.item()) < noise_of_estimate


@pytest.mark.parametrize("condition", CONDITIONS)
def test_anchor_alone_trains_a_flow_matching_model(condition, recipe, draws_for):
    objective = FlowAnchored(condition=condition, consistency=0.0, cosine=0.0)
    network = initialize(MLP(width=32), (2,), 0, objective.num_conditions)
    function = objective.function(network, PROCESS)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    rng, parts = torch.Generator().manual_seed(0), recipe(process=PROCESS, levels=Uniform())
    steps = 250
    for number in range(steps):
        data = torch.tensor(MEAN) + STD * torch.randn(256, 2, generator=rng)
        optimizer.param_groups[0]["lr"] = 2e-2 * (1 - number / steps)
        optimizer.zero_grad()
        models = Models(online=function, ema=function)
        objective(parts, models, data, draws_for(256, step=number), number, steps).loss.backward()
        optimizer.step()
    sigma = torch.linspace(0.1, 1, 500)
    data, noise = torch.tensor(MEAN) + STD * torch.randn(500, 2, generator=rng), torch.randn(500, 2, generator=rng)
    noisy = PROCESS.add_noise(data, noise, sigma)
    expected = flow().expectation(noisy, sigma)
    exact = expected.data - expected.noise
    with torch.no_grad():
        error = (function.velocity(noisy, sigma) - exact).square().mean() / exact.square().mean()
    assert error < 0.1  # 1 for the mean velocity, which does not look at the state


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_function_is_the_identity_at_sigma_min(condition, preconditioned, double):
    network = initialize(MLP(width=16), (2,), 0, 2 if condition == "auxiliary" else 1).double()
    function = AnchoredFunction(network, PROCESS, condition=condition, preconditioned=preconditioned)
    x = double(4, 2)
    torch.testing.assert_close(function(x, torch.full((4,), PROCESS.sigma_min).double()), x, rtol=0, atol=1e-8)


class Recorder(nn.Module):
    """Gives nothing, and keeps what it was given."""

    def forward(self, x, told, dropout=None):
        del told, dropout
        self.seen = x
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    "process", [PROCESS, TrigFlow(), VarianceExploding(sigma_data=0.7)], ids=lambda process: process.name
)
def test_preconditioned_network_sees_unit_variance_and_has_unit_variance_to_give(process, double):
    """On normal data of sigma_data it has nothing to give where v is expected, and a unit where v is one sample's."""
    network, num, sigma_data = Recorder(), 200_000, process.sigma_data
    function = FlowAnchored(preconditioned=True).function(network, process)
    clean, noise = sigma_data * double(num, 1), double(num, 1, seed=2)
    exact = MixtureFlow(process=process, data=GaussianMixture(means=torch.zeros(1, 1).double(), std=sigma_data))
    for level in (2 * process.sigma_min, 0.5, 0.99 * process.sigma_max):
        sigma = torch.full((num,), level, dtype=torch.float64)
        noisy = process.add_noise(clean, noise, sigma)
        state, position = function.straightened(noisy, sigma)
        velocity, expected = function.velocity(state, position), exact.expectation(noisy, sigma)
        torch.testing.assert_close(velocity, expected.data - expected.noise, rtol=1e-4, atol=1e-4)
        assert network.seen.std().item() == pytest.approx(1, rel=0.01)
        out = sigma_data / ((1 - position[0]) ** 2 * sigma_data**2 + position[0] ** 2) ** 0.5
        assert ((clean - noise - velocity) / out).std().item() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("process", [Bridge(), TrigFlow(), VarianceExploding()], ids=lambda process: process.name)
def test_other_processes_are_straightened(process, double):
    """All of them see the same straight paths, so the loss of the same noise-to-signal ratios is the same."""
    objective, network = FlowAnchored(), initialize(MLP(width=16), (2,), 0).double()
    function = objective.function(network, process)
    sigma = process.grid(9).double()
    data, noise = double(9, 2), double(9, 2, seed=2)
    state, position = function.straightened(process.add_noise(data, noise, sigma), sigma)
    torch.testing.assert_close(state, (1 - position)[:, None] * data + position[:, None] * noise)
    level = process.coefficients(sigma)
    torch.testing.assert_close(position / (1 - position), level.noise / level.data)
    kept = double(1, 2)
    torch.testing.assert_close(function(kept, sigma[:1]), kept, rtol=0, atol=1e-6)


def test_unused_term_costs_nothing(step):
    both, anchor, consistency = (
        step(FlowAnchored(**part), ExactVelocities("expanded")).forward_units
        for part in ({}, {"consistency": 0.0}, {"anchor": 0.0})
    )
    assert both == anchor + consistency == 8 * 256


BASE = {"name": "x", "data": {"name": "gaussians_2m2m"}, "network": {"name": "mlp"}, "process": {"name": "linear"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": {"name": "facm", "anchor": 0, "consistency": 0}}, "anchor must be > 0"),
        ({"objective": {"name": "facm", "power": 2}}, "power must be in [0, 1], got 2"),
        ({"objective": {"name": "facm", "cosine": -1}}, "cosine must be >= 0, got -1"),
        ({"objective": {"name": "facm", "c": 0}}, "c must be > 0, got 0"),
    ],
)
def test_meaningless_recipes_are_refused(change, message):
    with pytest.raises(ConfigError) as caught:
        Experiment.from_dict(BASE | {"objective": {"name": "facm"}} | change)
    assert message in str(caught.value)
