"""Denoisers trained for a coupling, against the closed forms of its flow."""

from __future__ import annotations

import copy

import pytest
import torch

from gcsearch.data.gaussians import OneToTwoModes
from gcsearch.science.couplings import EndPoints, Generator, Independent, Unpaired
from gcsearch.science.denoisers import train_denoiser
from gcsearch.science.diagnostics import path_deviation
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.objectives import Models
from gcsearch.science.oracles import (
    ExactConsistency,
    GaussianMixture,
    proxy_generator,
    proxy_independent,
)
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import VarianceExploding
from gcsearch.science.randomness import draw_step

PROCESS = VarianceExploding()
MEAN, STD = torch.tensor([0.3, -0.8]), 0.5
NORMAL = GaussianMixture(means=MEAN[None], std=STD)
EXACT = Models(online=ExactConsistency(PROCESS, MEAN, STD), ema=ExactConsistency(PROCESS, MEAN, STD))


@pytest.fixture
def batches(draws_for):
    """Batches of one Gaussian."""
    return lambda number: (NORMAL.sample(128, torch.Generator().manual_seed(number)), draws_for(128, step=number))


def paths(coupling, sigma, num, rng):
    """End points of paths through states at one level, as the exact predictor gives them."""
    levels = torch.full((num,), sigma)
    batch = Unpaired(
        data=NORMAL.sample(num, rng),
        noise=torch.randn(num, 2, generator=rng),
        sigma_lower=levels,
        process=PROCESS,
        predictors=EXACT.predictors,
        chosen=coupling.chosen(torch.arange(num), 0.0),
    )
    return coupling.pair(batch), levels


@pytest.mark.parametrize("coupling", [Independent(), Generator(mu=1.0)], ids=["independent", "generator"])
@pytest.mark.parametrize(
    ("num_steps", "width", "tolerance"),
    [pytest.param(400, 32, 0.4, id="short"), pytest.param(2_000, 64, 0.05, id="long", marks=pytest.mark.slow)],
)
def test_denoiser_gives_the_proxy_of_its_coupling(recipe, batches, rng, coupling, num_steps, width, tolerance):
    flow = train_denoiser(
        MLP(width=width), (2,), recipe(coupling=coupling), EXACT, batches, num_steps=num_steps, seed=0
    )
    for sigma in (0.3, 1.0, 3.0):
        ends, levels = paths(coupling, sigma, 20_000, rng)
        closed = proxy_independent if coupling.name == "independent" else proxy_generator
        expected = closed(levels[:1].double(), STD, 2).item()
        assert path_deviation(ends, levels, flow).mean().item() == pytest.approx(expected, rel=tolerance, abs=0.004)


@pytest.mark.slow
def test_denoiser_of_two_narrow_modes_gives_the_proxy_of_independent_coupling_at_all_levels(recipe, rng):
    data, process = OneToTwoModes(), VarianceExploding(sigma_min=0.001, sigma_max=5.0)
    points = data.load().values

    def batches(number):
        chosen = torch.randint(len(points), (256,), generator=torch.Generator().manual_seed(number))
        return points[chosen], draw_step(0, number, 256, data.draw_source)

    exact = data.ideal_flow(process)
    flow = train_denoiser(MLP(), (2,), recipe(process=process), EXACT, batches, num_steps=5_000, seed=0)
    for sigma in (0.25, 0.5, 1.0, 2.0, 5.0):
        noise = torch.randn(20_000, 2, generator=rng)
        ends, levels = EndPoints(data=points.repeat(2, 1), noise=noise), torch.full((20_000,), sigma)
        reference = path_deviation(ends, levels, exact).mean().item()
        assert path_deviation(ends, levels, flow).mean().item() == pytest.approx(reference, rel=0.05)


@pytest.mark.usefixtures("unchanged_global_rng")
def test_denoiser_is_a_function_of_its_arguments_and_leaves_all_networks_as_they_were(
    recipe, batches, perceptrons, models_of
):
    networks = perceptrons()
    before = copy.deepcopy([network.state_dict() for network in networks])
    parts, models = recipe(coupling=Generator(mu=1.0, predictor="online")), models_of(PROCESS, *networks)
    x, sigma = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)), torch.linspace(0.1, 2, 6)

    def denoised(**changes):
        arguments = {"network": MLP(width=8), "recipe": parts, "num_steps": 3, "seed": 0} | changes
        return train_denoiser(event_shape=(2,), models=models, batches=batches, **arguments).denoised(x, sigma)

    first = denoised()
    torch.testing.assert_close(denoised(), first, rtol=0, atol=0)
    assert (denoised(seed=1) != first).any()
    assert (denoised(num_steps=4) != first).any()
    assert not first.requires_grad
    torch.testing.assert_close([network.state_dict() for network in networks], before, rtol=0, atol=0)
    assert all(weight.grad is None for network in networks for weight in network.parameters())


def test_end_points_come_from_the_given_models_and_not_from_the_denoiser_in_training(recipe, batches):
    asked = []

    class Told(ExactConsistency):
        def __call__(self, noisy, sigma, dropout_seed=None):
            asked.append(len(noisy))
            return super().__call__(noisy, sigma, dropout_seed)

    told = Told(PROCESS, MEAN, STD)
    parts = recipe(coupling=Generator(mu=0.5, predictor="online", start=0.5))
    for step, expected in ((0, []), (5, [64, 64])):  # generated from half of the training on
        asked.clear()
        train_denoiser(
            MLP(width=8),
            (2,),
            parts,
            Models(online=told, ema=ConsistencyFunction(torch.nn.Identity(), PROCESS)),
            batches,
            num_steps=2,
            seed=0,
            step=step,
            horizon=10,
        )
        assert asked == expected


def test_training_no_denoiser_is_refused(recipe, batches):
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        train_denoiser(MLP(width=8), (2,), recipe(), EXACT, batches, num_steps=0, seed=0)
