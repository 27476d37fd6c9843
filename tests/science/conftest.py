"""What the tests of the science share: recipes and draws of a step, networks with random weights, flows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gcsearch.science.couplings import Independent
from gcsearch.science.distances import PseudoHuber
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.objectives import Models, Recipe
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import VarianceExploding
from gcsearch.science.randomness import draw_step
from gcsearch.science.schedules import Fixed, InverseGap, Lognormal

DOUBLE = torch.float64


class Mixer(nn.Module):
    """A network that depends on its input and on the level."""

    def forward(self, x, conditioning, dropout=None):
        del dropout
        return (x + conditioning[:, None]).sin()


@pytest.fixture
def mixer() -> nn.Module:
    """Such a network."""
    return Mixer()


@pytest.fixture
def recipe() -> Callable[..., Any]:
    """Makes a recipe for points; what is given replaces its parts."""

    def make(**parts):
        defaults = {
            "process": VarianceExploding(),
            "timesteps": Fixed(num_levels=20),
            "levels": Lognormal(),
            "weighting": InverseGap(),
            "coupling": Independent(),
            "distance": PseudoHuber(),
        }
        return Recipe(**(defaults | parts))

    return make


@pytest.fixture
def draws_for() -> Callable[..., Any]:
    """Draws what a step of some batch size needs."""

    def make(batch_size, shape=(2,), seed=0, step=3, dtype=torch.float32):
        return draw_step(
            seed, step, batch_size, lambda num, stream: torch.randn(num, *shape, generator=stream, dtype=dtype)
        )

    return make


@pytest.fixture
def perceptrons() -> Callable[..., Any]:
    """Makes an online network and its average, of different weights."""

    def make(dtype=torch.float32, width=16):
        return [initialize(MLP(width=width), (2,), seed).to(dtype) for seed in (0, 1)]

    return make


@pytest.fixture
def models_of() -> Callable[..., Any]:
    """Makes the models of a step of two networks."""

    def make(process, online, ema):
        return Models(online=ConsistencyFunction(online, process), ema=ConsistencyFunction(ema, process))

    return make


@pytest.fixture
def loss_and_gradient(models_of: Callable[..., Any]) -> Callable[..., Any]:
    """One step of consistency training: its terms and the gradient of the online network."""

    def make(parts, online, ema, data, draws, step=3, num_steps=10):
        online.zero_grad()
        terms = Consistency()(parts, models_of(parts.process, online, ema), data, draws, step, num_steps)
        terms.loss.backward()
        return terms, [parameter.grad.clone() for parameter in online.parameters()]

    return make


@pytest.fixture
def levels() -> Callable[..., Any]:
    """Makes levels, one per example, in double precision."""

    def make(*values):
        return torch.tensor(values, dtype=DOUBLE)

    return make


@pytest.fixture
def follow_flow() -> Callable[..., Any]:
    """Follows a flow by a solver of fixed steps."""

    def make(velocity, start, grid, method):
        """Integrate dx / dsigma = velocity down a decreasing grid, by Euler or Heun."""
        x = start
        for here, there in itertools.pairwise(grid):
            slope = velocity(x, here.expand(len(x)))
            guess = x + (there - here) * slope
            if method == "heun":
                slope = (slope + velocity(guess, there.expand(len(x)))) / 2
            x = x + (there - here) * slope
        return x

    return make


@pytest.fixture
def awake() -> Callable[..., Any]:
    """Makes networks in which every layer matters."""

    def make(settings, event_shape=(2, 8, 8), seed=0):
        """The module in double precision with random weights of a size that makes every layer matter."""
        module, rng = initialize(settings, event_shape, seed), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.1)
        return module.double()

    return make


@pytest.fixture
def double() -> Callable[..., Any]:
    """Draws normal numbers in double precision."""

    def make(*shape, seed=1):
        return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    return make
