"""The metric `diagnostics` against closed forms of one Gaussian, and what it may not touch."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from gcsearch.metrics import Subject
from gcsearch.metrics.diagnostics import Diagnostics
from gcsearch.science.couplings import Generator, Independent
from gcsearch.science.distances import SquaredL2
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.objectives import Models, Recipe
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.science.oracles import ExactConsistency, GaussianMixture, MixtureFlow, proxy_independent, transport_cost
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import VarianceExploding
from gcsearch.science.randomness import draw_diagnostics
from gcsearch.science.schedules import Fixed, InverseGap, Uniform

PROCESS = VarianceExploding(sigma_min=0.1, sigma_max=2.0)
MEAN, STD = torch.tensor([0.3, -0.8]), 0.5
FLOW = MixtureFlow(process=PROCESS, data=GaussianMixture(means=MEAN[None], std=STD))
POINTS = FLOW.data.sample(5_000, torch.Generator().manual_seed(9))
EXACT = ExactConsistency(PROCESS, MEAN, STD)
RECIPE = Recipe(
    process=PROCESS,
    timesteps=Fixed(num_levels=2),
    levels=Uniform(),
    weighting=InverseGap(),
    coupling=Independent(),
    distance=SquaredL2(),
)
FAR = (PROCESS.sigma_max - PROCESS.sigma_min) * STD * math.sqrt(math.pi / 2 / (STD**2 + PROCESS.sigma_max**2))
"""Mean distance to the flow from the highest level to the lowest: the gap times the mean of ||z - E[z | x]||, a
Rayleigh distribution of scale std / sqrt(std^2 + sigma^2)."""


class Bias(nn.Module):
    """A network of one weight, whose gradient has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x, conditioning, dropout=None):
        del conditioning, dropout
        return self.bias.expand_as(x)


def subject(*, batch_size=64, online=None, recipe=RECIPE, seed=0, **changes) -> Subject:
    def batches(number):
        indices, draws = draw_diagnostics(
            seed, number, batch_size, len(POINTS), lambda num, stream: torch.randn(num, 2, generator=stream)
        )
        return POINTS[indices], draws

    online = initialize(MLP(width=16), (2,), 0) if online is None else online
    return Subject(
        **{
            "objective": Consistency(),
            "recipe": recipe,
            "network": MLP(width=16),
            "event_shape": (2,),
            "models": Models(online=ConsistencyFunction(online, PROCESS), ema=EXACT),
            "step": 3,
            "num_steps": 10,
            "batches": batches,
            "flow": FLOW,
            "seed": 7,
        }
        | changes
    )


def recipe_with(**parts) -> Recipe:
    return dataclasses.replace(RECIPE, **parts)


# Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [4, 32])
def test_gradient_variance_of_a_network_of_one_weight_is_the_closed_form(batch_size):
    num = 250
    got = Diagnostics(num_batches=num).measure(subject(batch_size=batch_size, online=Bias(), flow=None))
    low, high = (torch.tensor([level], dtype=torch.float64) for level in (PROCESS.sigma_min, PROCESS.sigma_max))
    upper = PROCESS.preconditioning(high)
    # Gradient of one example: 2 lambda c_out sum_j (c_skip (x + sigma_2 z) - (x + sigma_1 z))_j, since f is the
    # identity at sigma_1. Its variance is that of a sum of d normal numbers.
    factor = 2 * upper.out / (high - low)
    each = ((upper.skip - 1) * STD).square() + (upper.skip * high - low).square()
    expected = (factor.square() * 2 * each / batch_size).item()
    assert got["gradient_variance"] == pytest.approx(expected, rel=4 * math.sqrt(2 / num))


def test_transport_cost_and_distance_to_the_flow_of_independent_coupling_are_the_closed_forms():
    values = Diagnostics(num_batches=32).measure(subject(batch_size=512))
    expected = MEAN.square().sum().item() + 2 * (STD**2 + 1)
    assert values["transport_cost"] == pytest.approx(expected, rel=0.03)
    assert values["ode_distance"] == pytest.approx(FAR, rel=0.03)


def test_transport_cost_of_generated_end_points_is_the_closed_form_at_the_schedules_levels():
    levels = PROCESS.grid(5)[:-1].double()  # predicted at the lower level of each pair, all equally likely
    parts = recipe_with(coupling=Generator(mu=1.0), timesteps=Fixed(num_levels=5))
    got = Diagnostics(num_batches=32).measure(subject(batch_size=512, recipe=parts))["transport_cost"]
    expected = transport_cost(levels, MEAN.double(), STD, PROCESS.sigma_min).mean().item()
    assert got == pytest.approx(expected, rel=0.03)
    independent = MEAN.square().sum().item() + 2 * (STD**2 + 1)
    assert got < 0.95 * independent


def test_without_an_exact_flow_denoisers_give_the_proxy_over_the_proposal_and_the_distance_to_the_flow():
    values = Diagnostics(num_batches=16, denoiser_steps=150).measure(subject(batch_size=128, flow=None))
    positions = torch.linspace(0, 1, 2_001, dtype=torch.float64)
    expected = proxy_independent(Uniform().quantile(positions, PROCESS), STD, 2).mean().item()
    assert values["path_deviation"] == pytest.approx(expected, rel=0.2)
    assert values["ode_distance"] == pytest.approx(FAR, rel=0.2)


def test_each_flow_is_that_of_its_coupling(monkeypatch):
    trained = []

    def train(network, event_shape, recipe, models, batches, **settings):
        trained.append((recipe.coupling.name, settings))
        return FLOW

    monkeypatch.setattr("gcsearch.metrics.diagnostics.train_denoiser", train)
    metric, parts = Diagnostics(num_batches=2, denoiser_steps=9), recipe_with(coupling=Generator(mu=1.0))
    settings = {"num_steps": 9, "seed": 7, "device": "cpu", "step": 3, "horizon": 10}
    metric.measure(subject(recipe=parts, flow=None))
    metric.measure(subject(recipe=parts))
    assert trained == [("independent", settings), ("generator", settings), ("generator", settings)]


@pytest.mark.parametrize(
    ("denoiser_steps", "flow", "expected"),
    [
        (0, FLOW, {"gradient_variance", "transport_cost", "ode_distance"}),
        (0, None, {"gradient_variance", "transport_cost"}),
        (1, None, {"gradient_variance", "transport_cost", "ode_distance", "path_deviation"}),
    ],
)
def test_values_are_those_of_the_keys_that_are_defined(denoiser_steps, flow, expected):
    metric = Diagnostics(num_batches=2, denoiser_steps=denoiser_steps)
    assert set(metric.measure(subject(flow=flow))) == expected
    assert expected <= set(metric.keys)


def test_a_denoiser_that_blows_up_leaves_its_value_out_and_bad_weights_show(monkeypatch):
    class Broken(MixtureFlow):
        def expectation(self, noisy, sigma):
            return super().expectation(noisy * math.nan, sigma)

    monkeypatch.setattr(
        "gcsearch.metrics.diagnostics.train_denoiser", lambda *_, **__: Broken(process=PROCESS, data=FLOW.data)
    )
    values = Diagnostics(num_batches=2, denoiser_steps=1).measure(subject())
    assert set(values) == {"gradient_variance", "transport_cost", "ode_distance"}
    assert all(map(math.isfinite, values.values()))

    bad = Bias()
    nn.init.constant_(bad.bias, math.nan)
    coupling = Generator(mu=1.0, predictor="online")
    values = Diagnostics(num_batches=2).measure(
        subject(online=bad, recipe=recipe_with(coupling=coupling, timesteps=Fixed(num_levels=3)))
    )
    assert not math.isfinite(values["gradient_variance"])
    assert not math.isfinite(values["transport_cost"])


# What it depends on -----------------------------------------------------------------------------------------------


def test_no_share_of_generated_end_points_is_independent_coupling():
    metric = Diagnostics(num_batches=2, denoiser_steps=3)
    independent = metric.measure(subject())
    assert metric.measure(subject(recipe=recipe_with(coupling=Generator(mu=0.0)))) == independent
    assert metric.measure(subject(recipe=recipe_with(coupling=Generator(mu=1.0, start=0.4)))) == independent  # step 3
    begun = metric.measure(subject(recipe=recipe_with(coupling=Generator(mu=1.0, start=0.3))))
    assert all(begun[key] != independent[key] for key in metric.keys)


@pytest.mark.usefixtures("unchanged_global_rng")
def test_measuring_twice_gives_the_same_bits_and_leaves_networks_and_gradients_alone():
    network = initialize(MLP(width=16, dropout=0.5), (2,), 0)
    for weight in network.parameters():
        weight.grad = torch.ones_like(weight)
    before = copy.deepcopy(network.state_dict())
    metric = Diagnostics(num_batches=2, denoiser_steps=2)
    parts = recipe_with(coupling=Generator(mu=0.5, predictor="online"), timesteps=Fixed(num_levels=5))
    first = metric.measure(subject(online=network, recipe=parts))
    assert metric.measure(subject(online=network, recipe=parts)) == first
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all((weight.grad == 1).all() for weight in network.parameters())
    assert metric.measure(subject(online=network, recipe=parts, seed=1)) != first


def test_denoisers_are_trained_on_other_batches_than_are_measured_on():
    asked = []
    one = subject()
    batches = one.batches

    def watched(number):
        asked.append(number)
        return batches(number)

    Diagnostics(num_batches=3, denoiser_steps=2).measure(dataclasses.replace(one, batches=watched))
    assert asked == [0, 1, 2] * 3 + [3, 4] + [0, 1, 2]


@pytest.mark.parametrize(("field", "value"), [("num_batches", 1), ("denoiser_steps", -1)])
def test_settings_that_mean_nothing_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .* got {value}"):
        Diagnostics(**{field: value})
