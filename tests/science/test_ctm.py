"""CTM: its function, its losses on exact oracles, its draws, and gamma-sampling."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.science.flows import LearnedFlow
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.objectives import Models
from gcsearch.science.objectives.ctm import ConsistencyTrajectory, balance, follow, gradient_norm
from gcsearch.science.oracles import ExactConsistency, GaussianMixture, MixtureFlow
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import Bridge, TrigFlow, VarianceExploding
from gcsearch.science.samplers import Gamma, Multistep
from gcsearch.science.trajectories import TrajectoryFunction

STD, MEAN = 0.3, (0.2, -0.1)
PROCESSES = [VarianceExploding(), Bridge(), TrigFlow()]


class ExactDenoiser(ConsistencyFunction):
    """The denoiser of N(MEAN, STD^2)."""

    def __init__(self, process):
        super().__init__(nn.Identity(), process)
        data = GaussianMixture(means=torch.tensor([MEAN], dtype=torch.float64), std=STD)
        self.flow = MixtureFlow(process=process, data=data)

    def __call__(self, noisy, sigma, dropout_seed=None):
        return self.flow.denoised(noisy, sigma)


class ExactOutput(nn.Module):
    """F for which G is the exact trajectory of N(MEAN, STD^2) under the variance-exploding process."""

    def __init__(self, sigma_data=0.5):
        super().__init__()
        self.output_weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.sigma_data = sigma_data

    def forward(self, scaled, told, dropout=None):
        del dropout
        level, level_to = (4 * told).exp().unbind(1)
        level, level_to = level[:, None], level_to[:, None]
        size = (level.square() + self.sigma_data**2).sqrt()
        x, mean = scaled * size, scaled.new_tensor(MEAN)
        spread = level.square() + STD**2
        kept = ((level_to.square() + STD**2) / spread).sqrt()
        ratio = level_to / level
        jumped = (mean + kept * (x - mean) - ratio * x) / torch.where(ratio == 1, 1.0, 1 - ratio)
        denoised = mean + STD**2 / spread * (x - mean)
        data = torch.where(ratio > 1 - 1e-9, denoised, jumped)
        skip = self.sigma_data**2 / size.square()
        return self.output_weight * (data - skip * x) * size / (level * self.sigma_data)


def function_of(process, double=True):
    network = initialize(MLP(width=16), (2,), 0, 2)
    with torch.no_grad():
        for weight in network.further.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
    return TrajectoryFunction(network.double() if double else network, process)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)
class TestFunction:
    def test_stays_where_it_is_told_to_stay(self, process, double):
        function, sigma = function_of(process), process.grid(6).double()
        x = double(6, 2)
        torch.testing.assert_close(function.jump(x, sigma, sigma), x)

    def test_at_sigma_min_is_the_consistency_function(self, process, double):
        function, sigma = function_of(process), process.grid(6).double()
        x = double(6, 2)
        end = torch.full_like(sigma, process.sigma_min)
        torch.testing.assert_close(function(x, sigma), function.jump(x, sigma, end), rtol=0, atol=0)
        torch.testing.assert_close(function(x[:1], end[:1]), x[:1])

    def test_of_the_exact_network_is_the_exact_flow(self, process, double):
        function = TrajectoryFunction(ExactOutput(), process)
        exact = ExactConsistency(process, torch.tensor(MEAN, dtype=torch.float64), STD)
        grid = process.grid(8).double()
        sigma, lower = grid[[2, 4, 5, 7]], grid[[0, 3, 1, 6]]
        x = double(4, 2)
        torch.testing.assert_close(function.jump(x, sigma, lower), exact.jump(x, sigma, lower))
        torch.testing.assert_close(function(x, sigma), exact(x, sigma))
        torch.testing.assert_close(function.estimate(x, sigma, sigma), ExactDenoiser(process)(x, sigma))

    def test_gamma_of_one_is_multistep_sampling(self, process, double):
        function, stages = function_of(process), double(4, 5, 2)
        levels = (10.0, 1.0, 0.1)
        expected = Multistep(levels=levels, clip=False)(function, lambda stage: stages[stage])
        torch.testing.assert_close(Gamma(levels=levels, gamma=1.0)(function, lambda stage: stages[stage]), expected)

    def test_gamma_of_zero_follows_the_flow_without_noise(self, process, double):
        function, stages = TrajectoryFunction(ExactOutput(), process), double(4, 5, 2)
        got = Gamma(levels=(10.0, 1.0, 0.1), gamma=0.0)(function, lambda stage: stages[stage])
        start = process.initial_state(stages[0])
        torch.testing.assert_close(got, function(start, torch.full((5,), process.sigma_max).double()))


def test_solver_takes_each_example_its_own_number_of_steps(double):
    process = VarianceExploding()
    flow, grid, x = LearnedFlow(ExactDenoiser(process)), process.grid(9).double(), double(3, 2)
    start, steps = torch.tensor([8, 5, 3]), torch.tensor([1, 5, 2])
    together = follow(flow, x, grid, start, steps)
    for row in range(3):
        alone = x[row : row + 1]
        for _ in range(int(steps[row])):
            alone = follow(flow, alone, grid, start[row : row + 1] - _, torch.tensor([1]))
        torch.testing.assert_close(together[row : row + 1], alone)


def test_draws_are_where_they_should_be_and_independent():
    objective = ConsistencyTrajectory(num_levels=6, solver_steps=4)
    uniforms = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    upper, steps, lower, rest = objective.indices(uniforms)
    assert (upper >= steps).all()
    assert upper.max() == 5
    assert (lower >= 0).all()
    assert (lower <= upper - steps).all()
    shares = steps.bincount(minlength=5)[1:] / len(steps)
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), rtol=0, atol=5e-3)
    two = steps == 2
    torch.testing.assert_close(upper[two].bincount()[2:] / two.sum(), torch.full((4,), 0.25), rtol=0, atol=1e-2)
    some = two & (upper == 4)
    torch.testing.assert_close(lower[some].bincount() / some.sum(), torch.full((3,), 1 / 3), rtol=0, atol=2e-2)
    for index in (steps, upper, lower):
        assert abs(torch.corrcoef(torch.stack([index.float(), rest]))[0, 1]) < 0.01
    assert abs(rest.mean() - 0.5) < 0.01


def test_rests_on_the_exact_trajectory_up_to_the_solver(recipe, draws_for, double):
    """Soft consistency vanishes as the grid gets finer; denoising is at its least."""
    process = VarianceExploding(sigma_max=5.0)
    data = torch.tensor(MEAN, dtype=torch.float64) + STD * double(4_000, 2)
    draws = draws_for(4_000, dtype=torch.float64)
    draws = dataclasses.replace(draws, level_uniforms=draws.level_uniforms.double())

    def loss(num_levels, gain=1.0, denoising=0.0):
        function = TrajectoryFunction(ExactOutput(), process)
        with torch.no_grad():
            function.network.output_weight.mul_(gain)
        frozen = TrajectoryFunction(ExactOutput().requires_grad_(False), process)
        models = Models(online=function, ema=frozen, target=frozen, teacher=ExactDenoiser(process))
        objective = ConsistencyTrajectory(num_levels=num_levels, solver_steps=1, denoising=denoising)
        terms = objective(recipe(process=process), models, data, draws, 3, 10)
        terms.loss.backward()
        return terms.loss.item(), function.network.output_weight.grad.item()

    coarse, fine = loss(10)[0], loss(40)[0]
    assert fine < coarse / 30
    assert loss(40, gain=1.1)[0] > 100 * fine
    assert loss(40, gain=1.1)[1] > 0
    assert loss(40, gain=0.9)[1] < 0


def test_terms_are_balanced_at_the_last_weight():
    weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    reference, other = 3 * weight.sum(), 100 * weight.square().sum()
    ratio = balance(gradient_norm(reference, weight), other, weight)
    assert not ratio.requires_grad
    reference_norm, other_norm = 3 * 2**0.5, 200 * 5**0.5
    torch.testing.assert_close(ratio.item(), reference_norm / (other_norm + 1e-4))


BASE = {"name": "x", "data": {"name": "gaussians_2m2m"}, "network": {"name": "mlp"}, "coupling": "independent"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process": "linear"}, "needs a process that leaves some of the data at sigma_max, got 'linear'"),
        ({"training": {"num_workers": 2}}, "must be 1 for the objective 'ctm', whose loss needs the whole batch"),
        ({"objective": {"name": "ctm", "solver_steps": 18}}, "solver_steps must be from 1 to num_levels - 1, got 18"),
        ({"objective": {"name": "ctm", "denoising": -1}}, "denoising must be >= 0, got -1"),
        (
            {"objective": "consistency", "evaluation": {"further_samplers": [{"name": "gamma"}]}},
            "must not be 'gamma' for the objective 'consistency'",
        ),
        (
            {"objective": {"name": "facm", "condition": "auxiliary"}, "evaluation": {"sampler": {"name": "gamma"}}},
            "must not be 'gamma' for the objective 'facm'",
        ),
        ({"evaluation": {"sampler": {"name": "gamma", "levels": [100]}}}, "must lie between sigma_min"),
        ({"evaluation": {"sampler": {"name": "gamma", "gamma": 2}}}, "gamma must be in [0, 1], got 2"),
    ],
)
def test_meaningless_recipes_are_refused(change, message):
    with pytest.raises(ConfigError) as caught:
        Experiment.from_dict(BASE | {"objective": {"name": "ctm"}} | change)
    assert message in str(caught.value)
