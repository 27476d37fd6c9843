"""Training a denoiser for a coupling: the flow that a network finds where no closed form is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import torch

from gcsearch.science.ema import PowerFunction, update_average
from gcsearch.science.flows import LearnedFlow
from gcsearch.science.networks.base import Network, initialize
from gcsearch.science.objectives import Models, Recipe
from gcsearch.science.objectives.denoising import Denoising
from gcsearch.science.randomness import StepDraws
from gcsearch.science.schedules import Uniform
from gcsearch.science.shapes import Batch

LEARNING_RATE: Final = 2e-3
"""Adam's, at the first step; it falls linearly to 0, which removes most of the noise of the last weights."""

AVERAGE: Final = PowerFunction(sigma_rel=0.1)
"""Average of the weights that the flow uses."""


def train_denoiser(
    network: Network,
    event_shape: tuple[int, ...],
    recipe: Recipe,
    models: Models,
    batches: Callable[[int], tuple[Batch, StepDraws]],
    *,
    num_steps: int,
    seed: int,
    device: torch.device | str = "cpu",
    step: int = 0,
    horizon: int = 1,
    lr: float = LEARNING_RATE,
) -> LearnedFlow:
    """The flow of the recipe's coupling, from a fresh network trained to denoise its paths.

    Every level counts alike: positions in sigma^(1/rho) are drawn uniformly, whatever the recipe's proposal, so that
    the flow can be asked at every level. Adam without decay of the weights, `lr` falling linearly to 0; the averaged
    weights are taken. Networks in `models` and the global generators are left as they were.

    Args:
        network: Settings of the denoiser's network; its dropout, if any, is used.
        event_shape: Shape of one example.
        recipe: Gives process and coupling; its timesteps, levels, weighting and distance are not used.
        models: Networks that the coupling may generate end points with. They stay as they are throughout.
        batches: Data and draws of step number 0, 1, ... of the denoiser's training.
        num_steps: Steps of the denoiser's training, at least 1.
        seed: Seed of its weights.
        device: Where to train.
        step: Steps done in the training whose coupling this is; the share of generated examples depends on
            step / horizon.
        horizon: Planned steps of that training.
        lr: Learning rate of the first step.

    The proxy R of a denoiser that has not converged is too large. With a perceptron of width 256, batches of 256 and
    5,000 steps on `gaussians_1m2m` (levels 0.001 to 5) it is 0.3 % too large or less at levels from 0.5 on, 1.3 % at
    0.25 and 12 % at 0.1, where R is 1 % of the slopes' mean square; after 1,500 steps 1 %, 5 % and 40 %.

    Source: one denoiser per coupling as in GC (ICML) section 4.2, which gives no settings.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    recipe = dataclasses.replace(recipe, levels=Uniform())
    objective = Denoising()
    module = initialize(network, event_shape, seed).to(device)
    average = initialize(network, event_shape, seed).to(device).requires_grad_(False)
    trained = dataclasses.replace(
        models,
        online=objective.function(module, recipe.process),
        predictor_online=models.online if models.predictor_online is None else models.predictor_online,
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    for number in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - number / num_steps)
        data, draws = batches(number)
        loss = objective(recipe, trained, data, draws, step, horizon).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        update_average(average, module, AVERAGE.decay(number + 1, data.shape[0]))
    return LearnedFlow(objective.function(average, recipe.process))
