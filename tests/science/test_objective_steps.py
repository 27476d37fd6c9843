"""A step of consistency training: its coupling, its student and teacher, and what it depends on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gcsearch.science.couplings import Generator, Independent, OptimalTransport
from gcsearch.science.dropout import keep_mask, seed_tensor
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.networks.unet import UNet
from gcsearch.science.objectives import Models
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import Bridge, VarianceExploding
from gcsearch.science.randomness import StepDraws
from gcsearch.science.schedules import Exponential, Uniform

# Limits of the coupling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [VarianceExploding(), Bridge()])
@pytest.mark.parametrize("settings", [{"mu": 0.0}, {"mu": 1.0, "start": 0.5}, {"mu": 1.0, "end": 0.2}])
def test_generator_coupling_without_generated_examples_is_independent_coupling_bit_for_bit(
    recipe, draws_for, perceptrons, loss_and_gradient, process, settings, rng
):
    online, ema = perceptrons()
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)
    plain, plain_gradient = loss_and_gradient(recipe(process=process), online, ema, data, draws)
    parts = recipe(process=process, coupling=Generator(**settings))
    got, got_gradient = loss_and_gradient(parts, online, ema, data, draws)
    torch.testing.assert_close(got.loss, plain.loss, rtol=0, atol=0)
    torch.testing.assert_close(got_gradient, plain_gradient, rtol=0, atol=0)
    assert got.forward_units == plain.forward_units


def test_loss_with_mixing_is_that_of_the_chosen_and_of_the_other_examples(
    recipe, draws_for, perceptrons, loss_and_gradient, rng
):
    online, ema = perceptrons()
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)

    def loss_of(mu, rows=slice(None)):
        part = StepDraws(
            noise=draws.noise[rows],
            level_uniforms=draws.level_uniforms[rows],
            selection=draws.selection if rows == slice(None) else torch.arange(len(rows)),
            dropout_seed=0,
        )
        parts = recipe(coupling=Generator(mu=mu))
        return loss_and_gradient(parts, online, ema, data[rows], part)[0].loss.detach()

    chosen, others = draws.selection[:2].tolist(), draws.selection[2:].tolist()
    torch.testing.assert_close(loss_of(0.25), (2 * loss_of(1.0, chosen) + 6 * loss_of(0.0, others)) / 8)


@pytest.mark.parametrize("mu", [0.0, 0.25, 0.5, 1.0])
def test_step_costs_four_forwards_and_one_more_per_generated_example(
    recipe, draws_for, perceptrons, loss_and_gradient, mu, rng
):
    online, ema = perceptrons()
    data, draws = torch.randn(16, 2, generator=rng), draws_for(16)
    terms, _ = loss_and_gradient(recipe(coupling=Generator(mu=mu)), online, ema, data, draws)
    assert terms.forward_units == 4 * 16 + round(16 * mu)


@pytest.mark.parametrize(("predictor", "matters"), [("ema", "ema"), ("online", "online")])
def test_predictor_of_the_recipe_is_the_one_that_generates(
    recipe, draws_for, perceptrons, models_of, predictor, matters, rng
):
    process = VarianceExploding()
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)
    parts = recipe(coupling=Generator(mu=1.0, predictor=predictor))
    online, ema = perceptrons()
    losses = []
    for scale in (1.0, 3.0):
        with torch.no_grad():
            ema.last.weight.mul_(scale)
        losses.append(Consistency()(parts, models_of(process, online, ema), data, draws, 0, 10).loss)
    assert (losses[0] != losses[1]).item() is (matters == "ema")


@pytest.mark.parametrize("name", ["ema", "predictor_ema", "frozen"])
@pytest.mark.parametrize("given", ["neither", "both"])
def test_each_predictor_generates_for_the_recipes_that_name_it_and_for_no_other(
    recipe, draws_for, perceptrons, name, given, rng
):
    process = VarianceExploding()
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)
    networks = {
        key: initialize(MLP(width=16), (2,), seed) for seed, key in enumerate(("ema", "predictor_ema", "frozen"))
    }
    functions = {key: ConsistencyFunction(network, process) for key, network in networks.items()}
    if given == "neither":
        functions = {"ema": functions["ema"]}
    models = Models(online=ConsistencyFunction(perceptrons()[0], process), **functions)
    couplings = {"ema": Generator(mu=1.0), "frozen": Generator(mu=1.0, predictor="frozen", checkpoint="x.pt")}
    if given == "neither":
        assert set(models.predictors) == {"online", "ema"}
        del couplings["frozen"]

    def losses():
        return {
            key: Consistency()(recipe(coupling=coupling), models, data, draws, 0, 10).loss.item()
            for key, coupling in couplings.items()
        }

    before = losses()
    with torch.no_grad():
        networks[name].last.weight.mul_(3.0)
    changed = {key for key, loss in losses().items() if loss != before[key]}
    if given == "neither":
        assert changed == ({"ema"} if name == "ema" else set())
    else:
        assert changed == {"predictor_ema": {"ema"}, "frozen": {"frozen"}, "ema": set()}[name]


def test_generator_over_transport_without_generated_examples_is_transport_bit_for_bit(
    recipe, draws_for, perceptrons, loss_and_gradient, rng
):
    online, ema = perceptrons()
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)
    first, first_gradient = loss_and_gradient(recipe(coupling=OptimalTransport()), online, ema, data, draws)
    parts = recipe(coupling=Generator(mu=0.0, base="ot"))
    second, second_gradient = loss_and_gradient(parts, online, ema, data, draws)
    torch.testing.assert_close(second.loss, first.loss, rtol=0, atol=0)
    torch.testing.assert_close(second_gradient, first_gradient, rtol=0, atol=0)
    assert first.forward_units == second.forward_units == 4 * 8


# Student and teacher ----------------------------------------------------------------------------------------------


class Recorded(ConsistencyFunction):
    """A consistency function that remembers its calls."""

    def __init__(self, network, process):
        super().__init__(network, process)
        self.calls = []

    def __call__(self, noisy, sigma, dropout_seed=None):
        self.calls.append((noisy, sigma, dropout_seed, torch.is_grad_enabled()))
        return super().__call__(noisy, sigma, dropout_seed)


def test_teacher_is_at_the_lower_level_without_gradient_and_student_at_the_upper_with_it(
    recipe, draws_for, perceptrons, rng
):
    process = VarianceExploding()
    online, ema = (Recorded(network, process) for network in perceptrons())
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)
    parts = recipe(coupling=Generator(mu=0.5, predictor="ema"))
    Consistency()(parts, Models(online=online, ema=ema), data, draws, 3, 10)

    (predictor,), (teacher, student) = ema.calls, online.calls
    grid = process.grid(20)
    position = torch.searchsorted(grid, teacher[1])
    torch.testing.assert_close(grid[position], teacher[1], rtol=0, atol=0)
    torch.testing.assert_close(grid[position + 1], student[1], rtol=0, atol=0)
    # Both states lie on one line through the same end points.
    torch.testing.assert_close(
        (student[0] - teacher[0]) / (student[1] - teacher[1])[:, None], draws.noise, rtol=1e-3, atol=1e-3
    )
    assert (teacher[3], student[3]) == (False, True)
    assert teacher[2] == student[2] == draws.dropout_seed
    assert predictor[2:] == (None, False)
    torch.testing.assert_close(predictor[1], teacher[1][draws.selection[:4]], rtol=0, atol=0)


@pytest.mark.parametrize("predictor", ["ema", "online"])
@pytest.mark.parametrize("mode", [True, False])
def test_predictor_has_no_dropout_whichever_weights_and_mode_it_has(predictor, mode, recipe, draws_for, rng):
    process = VarianceExploding()
    online, ema = (Recorded(initialize(MLP(width=8, dropout=0.5), (2,), seed).train(mode), process) for seed in (0, 1))
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)
    parts = recipe(coupling=Generator(mu=0.5, predictor=predictor))
    Consistency()(parts, Models(online=online, ema=ema), data, draws, 3, 10)
    (noisy, sigma, seed, has_gradient), *_ = (ema if predictor == "ema" else online).calls
    assert (len(noisy), seed, has_gradient) == (4, None, False)
    assert [call[2] for call in online.calls[-2:]] == [draws.dropout_seed] * 2
    # What was generated is what the same weights give in a network that has no dropout.
    function = ema if predictor == "ema" else online
    dry = initialize(MLP(width=8), (2,), 0)
    dry.load_state_dict(function.network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(
            function(noisy, sigma), ConsistencyFunction(dry, process)(noisy, sigma), rtol=0, atol=0
        )


class Mask(nn.Module):
    """A network whose output is its dropout mask."""

    def forward(self, x, conditioning, dropout=None):
        del conditioning
        return torch.rand(x.shape) if dropout is None else keep_mask(x.shape, 0.5, dropout, 0).to(x.dtype)


class Bare(ConsistencyFunction):
    """The network's output as it is, so that student and teacher differ by their masks only."""

    def __call__(self, noisy, sigma, dropout_seed=None):
        return self.network(noisy, sigma, seed_tensor(dropout_seed) if isinstance(dropout_seed, int) else dropout_seed)


def test_student_and_teacher_share_one_dropout_mask(recipe, draws_for, rng):
    function = Bare(Mask(), VarianceExploding())
    data = torch.randn(8, 2, generator=rng)
    terms = Consistency()(recipe(), Models(online=function, ema=function), data, draws_for(8), 3, 10)
    torch.testing.assert_close(terms.loss, torch.tensor(0.0), rtol=0, atol=0)
    with torch.random.fork_rng(devices=[]):  # without a seed the mask would come from the global generator
        assert (function(data, data[:, 0]) != function(data, data[:, 0])).all()


def test_network_with_dropout_gives_student_and_teacher_equal_outputs_at_equal_inputs(recipe, draws_for, rng):
    network = initialize(UNet(channels=8, num_blocks=1, dropout=0.5), (1, 8, 8), 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2, generator=rng)
    process = VarianceExploding()
    function = Recorded(network, process)
    data, draws = torch.randn(4, 1, 8, 8, generator=rng), draws_for(4, (1, 8, 8))
    Consistency()(recipe(), Models(online=function, ema=function), data, draws, 3, 10)
    (x, sigma, _, _), (_, _, seed, _) = function.calls
    teacher, student = ConsistencyFunction(network, process)(x, sigma, seed), function(x, sigma, draws.dropout_seed)
    torch.testing.assert_close(student, teacher, rtol=0, atol=0)
    assert (student != function(x, sigma, draws.dropout_seed + 1)).any()


# What a step depends on -------------------------------------------------------------------------------------------


def test_number_of_levels_follows_the_step(recipe, draws_for, perceptrons, rng):
    process = VarianceExploding()
    function = Recorded(perceptrons()[0], process)
    data, draws = torch.randn(64, 2, generator=rng), draws_for(64)
    parts = recipe(timesteps=Exponential(s0=2, s1=8), levels=Uniform())
    for step, count in ((0, 3), (40, 5), (80, 9)):
        function.calls.clear()
        Consistency()(parts, Models(online=function, ema=function), data, draws, step, 100)
        used = torch.cat([sigma for _, sigma, _, _ in function.calls]).unique()
        assert torch.isin(used, process.grid(count)).all()
        assert len(used) == count


@pytest.mark.usefixtures("unchanged_global_rng")
def test_draws_are_the_same_after_any_recipe(recipe, draws_for, perceptrons, loss_and_gradient, rng):
    online, ema = perceptrons()
    data = torch.randn(8, 2, generator=rng)
    before = draws_for(8)
    for coupling in (Independent(), Generator(mu=0.5), Generator(mu=1.0, predictor="online")):
        for process in (VarianceExploding(), Bridge()):
            draws = draws_for(8)
            loss_and_gradient(recipe(process=process, coupling=coupling), online, ema, data, draws)
            torch.testing.assert_close(vars(draws), vars(before), rtol=0, atol=0)
