"""sCM: its tangent against finite differences, its loss on exact oracles, its weights, its configuration."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.science.couplings import Generator, Independent
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.objectives import Models
from gcsearch.science.objectives.scm import ContinuousConsistency, LevelWeight, tangents
from gcsearch.science.oracles import GaussianMixture, MixtureFlow
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import TrigFlow
from gcsearch.science.schedules import Lognormal
from gcsearch.science.teachers import TrainedBefore

STD, MEAN = 0.3, (0.2, -0.1)


class ExactOutput(nn.Module):
    """F of the exact consistency function of N(MEAN, STD^2) under ``trig``, as a function of x / sigma_data and t."""

    def __init__(self, process):
        super().__init__()
        self.process = process
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, scaled, time, dropout=None):
        del dropout
        sigma_data, mean = self.process.sigma_data, scaled.new_tensor(MEAN)
        start = math.atan(self.process.sigma_min / sigma_data)
        x = scaled * sigma_data

        def spread(at):
            return (at.cos() * STD).square() + (at.sin() * sigma_data).square()

        start = torch.full_like(time, start)
        kept = (spread(start) / spread(time)).sqrt()[:, None]
        end = start.cos()[:, None] * mean + kept * (x - time.cos()[:, None] * mean)
        passed = (time - start)[:, None]
        return self.gain * (passed.cos() * x - end) / (passed.sin() * sigma_data)


class ExactDenoiser(ConsistencyFunction):
    """The denoiser of the same data."""

    def __init__(self, process):
        super().__init__(nn.Identity(), process)
        data = GaussianMixture(means=torch.tensor([MEAN], dtype=torch.float64), std=STD)
        self.flow = MixtureFlow(process=process, data=data)

    def __call__(self, noisy, sigma, dropout_seed=None):
        return self.flow.denoised(noisy, sigma)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
@pytest.mark.parametrize("dropout", [None, 7])
def test_tangent_equals_a_finite_difference_of_the_consistency_function(sigma_data, dropout, double):
    process = TrigFlow(sigma_data=sigma_data)
    network = initialize(MLP(width=16, dropout=0.2), (2,), 0).double()
    function = ConsistencyFunction(network, process)
    data, noise = double(6, 2), double(6, 2, seed=2)
    sigma = torch.tensor([0.01, 0.1, 0.5, 1.0, 5.0, 40.0], dtype=torch.float64)
    time = (sigma / sigma_data).atan()

    def along(at):
        level = sigma_data * at.tan()
        return function(process.add_noise(data, noise, level), level, dropout)

    step = 1e-6
    change = (along(time + step) - along(time - step)) / (2 * step)
    noisy = process.add_noise(data, noise, sigma)
    slope = time.cos()[:, None] * sigma_data * noise - time.sin()[:, None] * data
    output, got = tangents(function, noisy, sigma, slope, 1.0, dropout)
    shifted = time - math.atan(process.sigma_min / sigma_data)
    torch.testing.assert_close(got, shifted.cos()[:, None] * change, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(output, network(noisy / sigma_data, time, None if dropout is None else torch.tensor(7)))
    pull = -(shifted.cos()[:, None] ** 2) * (sigma_data * output - slope)
    torch.testing.assert_close(tangents(function, noisy, sigma, slope, 0.0, dropout)[1], pull)


def distilled(**settings):
    """sCD from its first step on; the models hold the teacher, so no file is read."""
    return ContinuousConsistency(warmup=0.0, slope="teacher", teacher=TrainedBefore(), **settings)


@pytest.mark.parametrize("normalization", ["rms", "l2", "clip"])
def test_distillation_is_at_rest_on_the_exact_consistency_function(normalization, recipe, draws_for, double):
    process = TrigFlow()
    network = ExactOutput(process)
    models = Models(
        online=ConsistencyFunction(network, process),
        ema=ConsistencyFunction(network, process),
        teacher=ExactDenoiser(process),
    )
    parts, draws = recipe(process=process, levels=Lognormal(mean=-1.0, std=1.4)), draws_for(64, dtype=torch.float64)
    draws = dataclasses.replace(draws, level_uniforms=draws.level_uniforms.double())
    data = torch.tensor(MEAN, dtype=torch.float64) + STD * double(64, 2)
    loss = distilled(normalization=normalization)(parts, models, data, draws, 5, 10).loss
    loss.backward()
    assert loss.item() < 1e-12
    assert abs(network.gain.grad.item()) < 1e-6
    with torch.no_grad():
        network.gain.add_(0.1)
    network.gain.grad = None
    distilled(normalization=normalization)(parts, models, data, draws, 5, 10).loss.backward()
    assert network.gain.grad.item() > 1e-3  # away from it, the gradient points back


def test_normalization_bounds_the_tangent(double):
    tangent = 100 * double(5, 3, 4, 4)
    size = tangent[0].numel()
    norm = tangent.flatten(1).norm(dim=1)
    rms, plain, clipped = (
        ContinuousConsistency(normalization=kind).normalized(tangent).flatten(1) for kind in ("rms", "l2", "clip")
    )
    torch.testing.assert_close(rms.norm(dim=1), norm / (norm / math.sqrt(size) + 0.1))
    torch.testing.assert_close(plain.norm(dim=1), norm / (norm + 0.1))
    torch.testing.assert_close(rms / plain.norm(dim=1)[:, None] / math.sqrt(size), plain, rtol=1e-2, atol=0)
    assert clipped.abs().max() == 1


def test_warm_up_is_a_share_of_the_training(recipe, draws_for, models_of, perceptrons, double):
    process = TrigFlow()
    models = models_of(process, *perceptrons(dtype=torch.float64))
    parts, draws, data = recipe(process=process), draws_for(16, dtype=torch.float64), double(16, 2)

    def loss(warmup, step):
        return ContinuousConsistency(warmup=warmup)(parts, models, data, draws, step, 100).loss.item()

    assert loss(0.2, 20) == loss(0.2, 99) == loss(0.0, 0)
    assert loss(0.2, 10) == loss(0.4, 20) != loss(0.2, 20)


def test_learned_weight_makes_every_level_count_alike(double):
    """Its minimum is e^-w(t) = E[loss | t]."""
    weight = LevelWeight().double()
    optimizer = torch.optim.Adam(weight.parameters(), lr=0.05)
    time = torch.linspace(0, math.pi / 2, 200, dtype=torch.float64)
    losses = 0.1 + time.sin().square()
    assert (weight(time) == 0).all()
    for _ in range(300):
        optimizer.zero_grad()
        logarithm = weight(time)
        (logarithm.exp() * losses - logarithm).mean().backward()
        optimizer.step()
    torch.testing.assert_close(weight(time).exp() * losses, torch.ones_like(time), rtol=0, atol=0.1)


BASE = {"name": "x", "data": {"name": "gaussians_2m2m"}, "network": {"name": "mlp"}, "objective": {"name": "scm"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "process must be 'trig' for the objective 'scm', got 've'. Set process.name=trig"),
        ({"objective": {"name": "scm", "slope": "teacher"}}, "teacher must be given for slope: teacher"),
        ({"objective": {"name": "scm", "start": "teacher"}}, "teacher must be given for start: teacher"),
        ({"objective": {"name": "scm", "teacher": "checkpoint"}}, "set slope or start to teacher"),
        ({"objective": {"name": "scm", "warmup": 2}}, "warmup must be in [0, 1], got 2"),
        ({"objective": {"name": "scm", "c": 0}}, "c must be > 0, got 0"),
        (
            {"data": "digits", "process": "trig", "network": {"name": "song_unet", "embedding": "fourier"}},
            "objective 'scm' needs network.fourier_scale of at most 0.02 with network.embedding=fourier, got 16.0",
        ),
    ],
)
def test_meaningless_recipes_are_refused(change, message):
    with pytest.raises(ConfigError) as caught:
        Experiment.from_dict(BASE | change)
    assert message in str(caught.value)


def test_independent_coupling_is_exactly_generated_coupling_of_none(recipe, draws_for, models_of, perceptrons, double):
    process = TrigFlow()
    models = models_of(process, *perceptrons(dtype=torch.float64))
    draws, data = draws_for(16, dtype=torch.float64), double(16, 2)
    plain, none, half = (
        ContinuousConsistency()(recipe(process=process, coupling=coupling), models, data, draws, 5, 10)
        for coupling in (Independent(), Generator(mu=0.0), Generator(mu=0.5))
    )
    assert plain.loss.item() == none.loss.item() != half.loss.item()
    assert half.forward_units == plain.forward_units + 8
