"""Consistency distillation: what its steps and losses must be where theory knows the answer."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from gcsearch.registry import registries
from gcsearch.science.conversions import Estimate
from gcsearch.science.couplings import Generator, Independent, OptimalTransport
from gcsearch.science.distances import SquaredL2
from gcsearch.science.flows import Flow, solver_step
from gcsearch.science.objectives import Models, training_pairs
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.science.objectives.consistency_distillation import ConsistencyDistillation
from gcsearch.science.oracles import ExactConsistency, GaussianMixture, MixtureFlow
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.schedules import Fixed

DOUBLE = torch.float64
PROCESSES = [registries["process"][name]() for name in registries["process"]]


class Answers(ConsistencyFunction):
    """A teacher that says what a function of state and level does."""

    def __init__(self, process, answer):
        super().__init__(torch.nn.Identity(), process)
        self.answer = answer

    def __call__(self, noisy, sigma, dropout_seed=None):
        del dropout_seed
        return self.answer(noisy, sigma)


class Known(Flow):
    """The flow of a denoiser that knows the clean example."""

    def __init__(self, process, data):
        self.process, self.data = process, data

    def expectation(self, noisy, sigma):
        return Estimate.from_data(noisy, self.data, self.process.coefficients(sigma))


def gaussian(process, std):
    return MixtureFlow(process=process, data=GaussianMixture(means=torch.tensor([[0.5, -0.3]], dtype=DOUBLE), std=std))


# The step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=lambda one: one.name)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_teacher_that_knows_the_example_steps_along_its_path(process, solver, rng):
    data, noise = torch.randn(2, 5, 3, generator=rng, dtype=DOUBLE)
    grid = process.grid(6).double()
    lower, upper = grid[:-1], grid[1:]
    start = process.add_noise(data, noise, upper)
    end = solver_step(Known(process, data), start, upper, lower, solver)
    torch.testing.assert_close(end, process.add_noise(data, noise, lower))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda one: one.name)
@pytest.mark.parametrize(("solver", "order"), [("euler", 2), ("heun", 3)])
def test_error_of_a_step_has_the_order_of_its_solver(process, solver, order):
    exact = ExactConsistency(process, torch.tensor([0.5, -0.3], dtype=DOUBLE), 0.4)
    flow, state = gaussian(process, 0.4), torch.tensor([[0.9, -0.8], [0.1, 0.7]], dtype=DOUBLE)
    middle = process.grid(11).double()[6].expand(2)
    errors = []
    for share in (0.9, 0.95, 0.975):
        moved = solver_step(flow, state, middle, share * middle, solver)
        errors.append((exact(moved, share * middle) - exact(state, middle)).abs().max())
    ratios = [float((a / b).log2()) for a, b in itertools.pairwise(errors)]
    assert ratios == pytest.approx([order, order], abs=0.35)


# The loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=lambda one: one.name)
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("coupling", [Independent(), OptimalTransport(), Generator(mu=0.5)], ids=lambda one: one.name)
def test_distillation_from_the_example_itself_is_consistency_training(
    process, solver, coupling, recipe, perceptrons, models_of, draws_for, rng
):
    online, ema = perceptrons(DOUBLE)
    parts = recipe(process=process, coupling=coupling)
    data, draws = torch.randn(8, 2, generator=rng, dtype=DOUBLE), draws_for(8, dtype=DOUBLE)
    models = models_of(process, online, ema)
    example = training_pairs(parts, models, data, draws, 3, 10).ends.data  # perhaps a generated one
    teacher = Answers(process, lambda noisy, sigma: example)
    found = []
    for objective in (Consistency(), ConsistencyDistillation(solver=solver)):
        online.zero_grad()
        terms = objective(parts, dataclasses.replace(models, teacher=teacher), data, draws, 3, 10)
        terms.loss.backward()
        found.append((terms.loss.detach(), [weight.grad.clone() for weight in online.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)  # levels are float32
    assert float(found[0][0]) > 0


@pytest.mark.parametrize("process", PROCESSES, ids=lambda one: one.name)
def test_loss_of_the_exact_map_is_zero_up_to_the_error_of_the_solver(process, recipe, draws_for, rng):
    mean = torch.tensor([0.5, -0.3], dtype=DOUBLE)
    data = mean + 0.4 * torch.randn(256, 2, generator=rng, dtype=DOUBLE)
    draws = draws_for(256, dtype=DOUBLE)
    exact, losses = ExactConsistency(process, mean, 0.4), {}
    teacher = Answers(process, gaussian(process, 0.4).denoised)
    models = Models(online=exact, ema=exact, teacher=teacher)
    for num_levels in (20, 200):
        parts = recipe(process=process, timesteps=Fixed(num_levels=num_levels), distance=SquaredL2())
        losses["training", num_levels] = Consistency()(parts, models, data, draws, 3, 10).loss
        for solver in ("euler", "heun"):
            objective = ConsistencyDistillation(solver=solver)
            losses[solver, num_levels] = objective(parts, models, data, draws, 3, 10).loss
    for num_levels in (20, 200):
        assert losses["heun", num_levels] < 0.2 * losses["euler", num_levels] < 0.2 * losses["training", num_levels]
    # The weight is 1 / gap: a local error of O(h^2) gives O(h^3), one of O(h^3) gives O(h^5).
    assert losses["euler", 20] / losses["euler", 200] > 300
    assert losses["heun", 20] / losses["heun", 200] > 10_000


def test_loss_is_zero_where_the_data_are_one_point(recipe, draws_for):
    mean = torch.tensor([0.5, -0.3], dtype=DOUBLE)
    for process in PROCESSES:
        exact = ExactConsistency(process, mean, 0.0)
        teacher = Answers(process, lambda noisy, sigma: mean.expand_as(noisy))
        models = Models(online=exact, ema=exact, teacher=teacher)
        objective, draws = ConsistencyDistillation(), draws_for(16, dtype=DOUBLE)
        loss = objective(recipe(process=process), models, mean.expand(16, 2), draws, 3, 10).loss
        assert float(loss) < 1e-9


# What it asks for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "units"), [("euler", 5), ("heun", 6)])
def test_cost_counts_the_teacher(solver, units, recipe, draws_for, rng):
    process = recipe().process
    exact = ExactConsistency(process, torch.zeros(2), 0.4)
    models = Models(online=exact, ema=exact, teacher=exact)
    data = torch.randn(8, 2, generator=rng)
    terms = ConsistencyDistillation(solver=solver)(recipe(), models, data, draws_for(8), 3, 10)
    assert terms.forward_units == units * 8


def test_target_average_takes_the_place_of_the_current_weights(recipe, perceptrons, models_of, draws_for, rng):
    process = recipe().process
    online, other = perceptrons()
    models = models_of(process, online, other)
    models = dataclasses.replace(models, teacher=models.ema, target=models.ema)
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)
    with_target = ConsistencyDistillation(target_ema=0.9)
    assert with_target.keeps_target
    assert not ConsistencyDistillation().keeps_target
    assert with_target.target_decay(recipe(), 0, 10) == 0.9
    loss = with_target(recipe(), models, data, draws, 3, 10).loss
    same = with_target(recipe(), dataclasses.replace(models, target=models.online), data, draws, 3, 10).loss
    without = ConsistencyDistillation()(recipe(), dataclasses.replace(models, target=None), data, draws, 3, 10).loss
    assert same == without != loss
    with pytest.raises(ValueError, match=r"target_ema must be in \[0, 1\), got 1.0"):
        ConsistencyDistillation(target_ema=1.0)
