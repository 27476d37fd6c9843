"""Consistency training against a naive implementation and closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from gcsearch.science.couplings import Generator, Independent, OptimalTransport
from gcsearch.science.distances import L1, ElementwisePseudoHuber, PseudoHuber, SquaredL2
from gcsearch.science.objectives import Models
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.science.oracles import ExactConsistency
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import Bridge, VarianceExploding
from gcsearch.science.schedules import Fixed, Lognormal, Uniform

DOUBLE = torch.float64


@dataclass(frozen=True, kw_only=True)
class DoubleExploding(VarianceExploding):
    """The process with its grid in float64, so that the whole loss is."""

    def grid(self, num_levels):
        return super().grid(num_levels).double()


@dataclass(frozen=True, kw_only=True)
class DoubleBridge(Bridge):
    """The same for the bridge."""

    def grid(self, num_levels):
        return super().grid(num_levels).double()


# A second implementation, example by example, from the papers' formulas ------------------------------------------


def naive_function(network, kind, x, sigma):
    """f at one example, for sigma_min = 0.002 and sigma_data = 0.5."""
    if kind == "ve":
        skip = 0.25 / ((sigma - 0.002) ** 2 + 0.25)
        out = 0.5 * (sigma - 0.002) / math.sqrt(sigma**2 + 0.25)
        scale, told = 1 / math.sqrt(sigma**2 + 0.25), math.log(sigma) / 4
    else:
        tau, shift = sigma / (1 + sigma), sigma / (1 + sigma) - 0.002 / 1.002
        if kind == "ve_on_tau":
            skip = 0.25 / (shift**2 + 0.25)
            out = 0.5 * shift / math.sqrt(tau**2 + 0.25)
            scale, told = 1 / math.sqrt(tau**2 + 0.25), math.log(tau) / 4
        else:
            scale = 1 / math.sqrt(0.25 * (1 - tau) ** 2 + tau**2)
            skip = 0.25 * (1 - shift) / (0.25 * (1 - shift) ** 2 + shift**2)
            out, told = 0.5 * shift * scale, math.log(sigma) / 4
    return skip * x + out * network(scale * x[None], torch.tensor([told], dtype=DOUBLE), None)[0]


def naive_state(kind, x, z, sigma):
    return x + sigma * z if kind == "ve" else (x + sigma * z) / (1 + sigma)


def naive_distance(name, a, b):
    difference = a - b
    if name == "l1":
        return sum(abs(entry) for entry in difference)
    squares = sum(entry * entry for entry in difference)
    if name == "l2":
        return squares
    offset = 0.00054 * math.sqrt(len(difference))
    if name == "pseudo_huber_elementwise":
        return sum(torch.sqrt(entry * entry + offset**2) - offset for entry in difference)
    return torch.sqrt(squares + offset**2) - offset


def naive_transport(data, noise):
    """The noise in the order of least total squared distance, by trying all orders."""

    def total(order):
        return sum(((data[row] - noise[other]) ** 2).sum().item() for row, other in enumerate(order))

    return noise[list(min(itertools.permutations(range(len(data))), key=total))]


def naive_loss(kind, distance, num_levels, mu, online, predictor, data, draws, transport=False):
    noise = naive_transport(data, draws.noise) if transport else draws.noise
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    grid = [float(np.float32((low + i / (num_levels - 1) * (high - low)) ** 7)) for i in range(num_levels)]
    grid[0] = float(np.float32(0.002))
    masses = [
        math.erf((math.log(b) + 1.1) / (math.sqrt(2) * 2)) - math.erf((math.log(a) + 1.1) / (math.sqrt(2) * 2))
        for a, b in itertools.pairwise(grid)
    ]
    chosen = draws.selection.tolist()[: round(mu * len(data))]
    total = 0.0
    for row in range(len(data)):
        uniform, interval, cumulative = draws.level_uniforms[row].item(), 0, masses[0]
        while cumulative / sum(masses) <= uniform:
            interval += 1
            cumulative += masses[interval]
        lower, upper, x, z = grid[interval], grid[interval + 1], data[row], noise[row]
        if row in chosen:
            x = naive_function(predictor, kind, naive_state(kind, x, z, lower), lower).detach()
        teacher = naive_function(online, kind, naive_state(kind, x, z, lower), lower).detach()
        student = naive_function(online, kind, naive_state(kind, x, z, upper), upper)
        total = total + naive_distance(distance, student, teacher) / (upper - lower)
    return total / len(data)


PROCESSES = {
    "ve": DoubleExploding(),
    "ve_on_tau": DoubleBridge(conditioning="ve_on_tau"),
    "unit_variance": DoubleBridge(conditioning="unit_variance"),
}


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize(
    ("coupling", "mu"),
    [
        (Independent(), 0.0),
        (Generator(mu=0.5, predictor="ema"), 0.5),
        (Generator(mu=0.5, predictor="online"), 0.5),
        (Generator(mu=1.0, predictor="ema"), 1.0),
        (Generator(mu=1.0, predictor="online"), 1.0),
        (OptimalTransport(), 0.0),
        (Generator(mu=0.5, predictor="ema", base="ot"), 0.5),
        (Generator(mu=0.5, predictor="online", base="ot"), 0.5),
        (Generator(mu=1.0, predictor="ema", base="ot"), 1.0),
    ],
    ids=[
        "independent",
        "half-ema",
        "half-online",
        "all-ema",
        "all-online",
        "ot",
        "half-ema-over-ot",
        "half-online-over-ot",
        "all-ema-over-ot",
    ],
)
@pytest.mark.parametrize(
    "distance", [PseudoHuber(), SquaredL2(), L1(), ElementwisePseudoHuber()], ids=lambda distance: distance.name
)
def test_loss_and_gradient_equal_a_naive_loop(
    recipe, draws_for, perceptrons, loss_and_gradient, kind, coupling, mu, distance, rng
):
    online, ema = perceptrons(DOUBLE)
    data, draws = torch.randn(6, 2, generator=rng, dtype=DOUBLE), draws_for(6, dtype=DOUBLE)
    parts = recipe(process=PROCESSES[kind], coupling=coupling, distance=distance)
    terms, gradient = loss_and_gradient(parts, online, ema, data, draws)

    online.zero_grad()
    predictor = ema if getattr(coupling, "predictor", "ema") == "ema" else online
    transport = isinstance(coupling, OptimalTransport) or getattr(coupling, "base", "independent") == "ot"
    expected = naive_loss(kind, distance.name, 20, mu, online, predictor, data, draws, transport)
    expected.backward()
    # The naive loop has sigma_min in double where the grid has it in single precision.
    torch.testing.assert_close(terms.loss, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, [p.grad for p in online.parameters()], rtol=1e-6, atol=1e-9)


# Closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [DoubleExploding(), DoubleBridge(), DoubleBridge(conditioning="unit_variance")])
def test_loss_of_the_exact_map_is_zero_when_the_data_is_one_point(recipe, draws_for, process):
    # All states of one noise then lie on one trajectory of the flow, as they do not for other data.
    centre = torch.tensor([0.3, -0.8], dtype=DOUBLE)
    parts, draws = recipe(process=process), draws_for(64, dtype=DOUBLE)

    def loss_of(data):
        function = ExactConsistency(process, centre, 0.0)
        return Consistency()(parts, Models(online=function, ema=function), data, draws, 3, 10).loss

    torch.testing.assert_close(loss_of(centre.expand(64, 2)), torch.tensor(0.0, dtype=DOUBLE), rtol=0, atol=1e-12)
    assert loss_of(centre.expand(64, 2) + 0.1) > 0.1


def gaussian_loss(num_levels, std, sigma_min, generated):
    """Expected weighted squared distance of the exact map of N(0, std^2 I) in two dimensions, by hand.

    Independent: the state is std e + sigma z. Generated: it is k_i (std e + sigma_i z) + sigma z. The map multiplies a
    state at level sigma_j by k_j.
    """
    grid = VarianceExploding(sigma_min=sigma_min).grid(num_levels).double()
    probabilities = Lognormal().probabilities(grid)
    total = 0.0
    for index, probability in enumerate(probabilities.tolist()):
        lower, upper = grid[index].item(), grid[index + 1].item()
        k_lower, k_upper = (math.sqrt((std**2 + sigma_min**2) / (std**2 + sigma**2)) for sigma in (lower, upper))
        start, bend = (k_lower, k_lower * lower) if generated else (1.0, 0.0)
        of_data = (k_upper - k_lower) * start * std
        of_noise = k_upper * (bend + upper) - k_lower * (bend + lower)
        total += probability * 2 * (of_data**2 + of_noise**2) / (upper - lower)
    return total


@pytest.mark.parametrize(("coupling", "generated"), [(Independent(), False), (Generator(mu=1.0), True)])
@pytest.mark.parametrize("num_levels", [6, 20])
def test_loss_of_the_exact_map_of_a_gaussian_equals_its_closed_form(
    recipe, draws_for, coupling, generated, num_levels, rng
):
    num, std = 200_000, 0.5
    process = VarianceExploding(sigma_min=0.05)
    function = ExactConsistency(process, torch.zeros(2), std)
    parts = recipe(process=process, timesteps=Fixed(num_levels=num_levels), coupling=coupling, distance=SquaredL2())
    data = std * torch.randn(num, 2, generator=rng)
    terms = Consistency()(parts, Models(online=function, ema=function), data, draws_for(num), 3, 10)
    expected = gaussian_loss(num_levels, std, 0.05, generated)
    assert terms.loss.item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("process", [VarianceExploding(), Bridge()])
def test_loss_of_the_exact_map_falls_with_the_share_of_generated_examples(recipe, draws_for, process, rng):
    num = 20_000
    function = ExactConsistency(process, torch.zeros(2), 0.5)
    data, draws = 0.5 * torch.randn(num, 2, generator=rng), draws_for(num)
    losses = [
        Consistency()(
            recipe(process=process, coupling=Generator(mu=mu), distance=SquaredL2()),
            Models(online=function, ema=function),
            data,
            draws,
            3,
            10,
        ).loss.item()
        for mu in (0.0, 0.5, 1.0)
    ]
    assert losses[2] < 0.8 * losses[0]
    assert losses[2] < losses[1] < losses[0]


def test_loss_of_the_identity_map_is_the_mean_distance_of_neighbouring_states(recipe, draws_for, rng):
    class Identity(ConsistencyFunction):
        def __call__(self, noisy, sigma, dropout_seed=None):
            return noisy

    process = VarianceExploding()
    function = Identity(nn.Identity(), process)
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)
    parts = recipe(distance=L1(), levels=Uniform())
    terms = Consistency()(parts, Models(online=function, ema=function), data, draws, 3, 10)
    # x_{i+1} - x_i = (sigma_{i+1} - sigma_i) z, and the weight cancels the gap.
    torch.testing.assert_close(terms.loss, draws.noise.abs().sum(1).mean(), rtol=1e-3, atol=0)


def test_loss_does_not_depend_on_the_order_of_the_batch(recipe, draws_for, perceptrons, loss_and_gradient, rng):
    online, ema = perceptrons(DOUBLE)
    data, draws = torch.randn(8, 2, generator=rng, dtype=DOUBLE), draws_for(8, dtype=DOUBLE)
    order = torch.randperm(8, generator=rng)
    moved = dataclasses.replace(
        draws,
        noise=draws.noise[order],
        level_uniforms=draws.level_uniforms[order],
        selection=order.argsort()[draws.selection],
    )
    parts = recipe(process=DoubleExploding(), coupling=Generator(mu=0.5))
    first, _ = loss_and_gradient(parts, online, ema, data, draws)
    second, _ = loss_and_gradient(parts, online, ema, data[order], moved)
    torch.testing.assert_close(first.loss, second.loss)
