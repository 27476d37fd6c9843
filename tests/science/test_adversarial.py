"""CTM's adversarial term: discriminators, their losses, and the weight of the term."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.registry import registries
from gcsearch.science.discriminators import Convolutional, Perceptron, taken_for_real, told_apart
from gcsearch.science.distances import Distance
from gcsearch.science.networks.base import initialize, seeded
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.objectives import Models
from gcsearch.science.objectives.ctm import ConsistencyTrajectory
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import VarianceExploding
from gcsearch.science.trajectories import TrajectoryFunction

SHAPES = {"points": (2,), "digits": (1, 8, 8), "images": (3, 28, 20)}
FITTING = [
    pytest.param(registries["discriminator"][name], shape, id=f"{name}-{event}")
    for name in registries["discriminator"]
    for event, shape in SHAPES.items()
    if not (name == "convolutional" and event == "points")
]


@pytest.mark.parametrize(("cls", "shape"), FITTING)
def test_a_discriminator_says_one_number_of_each_example_whatever_stands_beside_it(cls, shape, double):
    settings = cls()
    settings.check(shape)
    with seeded(0):
        module = settings.build(shape).double()
    x = double(5, *shape)
    logits = module(x)
    assert logits.shape == (5,)
    assert logits.std() > 0
    torch.testing.assert_close(torch.cat([module(row[None]) for row in x]), logits)
    with seeded(0):
        torch.testing.assert_close(settings.build(shape).double()(x), logits, rtol=0, atol=0)


def test_losses_are_those_of_the_hinge_and_reach_one_side_only(double):
    weight = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            return self.weight * x[:, 0]

    real, made = torch.tensor([[0.5], [3.0]]).double(), torch.tensor([[-2.0], [0.25]]).double().requires_grad_()
    loss = told_apart(Line(), real, made)
    loss.backward()
    assert loss.item() == pytest.approx((0.5 + 0) / 2 + (0 + 1.25) / 2)
    assert weight.grad.item() == pytest.approx(-0.5 / 2 + 0.25 / 2)
    assert made.grad is None

    weight.grad = None
    loss = taken_for_real(Line(), made)
    loss.backward()
    assert loss.item() == pytest.approx(1.75 / 2)
    torch.testing.assert_close(made.grad, torch.full_like(made, -0.5))
    assert weight.grad is None


class Recorded(Distance):
    """Squared distance that remembers what it compared."""

    def __call__(self, first, second):
        self.seen = first.detach(), second.detach()
        return (first - second).flatten(1).square().sum(1)


class Judge(nn.Module):
    """A smooth discriminator of fixed weights and any gain."""

    def __init__(self, gain):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))

    def forward(self, x):
        return self.gain * (x[:, 0].sin() + x[:, 1] ** 2)


@pytest.fixture
def parts(recipe, draws_for, double):
    """A step of CTM in double precision: the objective's arguments, and its network."""
    process = VarianceExploding(sigma_max=5.0)
    network, target = (initialize(MLP(width=4), (2,), seed, 2).double() for seed in (0, 1))
    teacher = initialize(MLP(width=4), (2,), 2).double().requires_grad_(False)
    draws = draws_for(12, dtype=torch.float64)
    draws = dataclasses.replace(draws, level_uniforms=draws.level_uniforms.double())
    distance, data = Recorded(), 0.5 * double(12, 2)

    def call(objective, judge=None, step=7):
        models = Models(
            online=TrajectoryFunction(network, process),
            ema=TrajectoryFunction(target, process),
            target=TrajectoryFunction(target.requires_grad_(False), process),
            teacher=ConsistencyFunction(teacher, process),
            companion=judge,
        )
        return objective(recipe(process=process, distance=distance), models, data, draws, step, 10), distance.seen

    return call, network, data


def ctm(**fields):
    return ConsistencyTrajectory(**{"num_levels": 6, "solver_steps": 2, "adversarial_after": 0, **fields})


@pytest.mark.parametrize(("gain", "bounds"), [(1.0, None), (1e5, 0.01), (1e-5, 10.0)])
def test_the_term_weighs_as_much_at_the_last_layer_as_soft_consistency(parts, gain, bounds):
    """The two gradients by central differences in every entry of the last weight."""
    call, network, data = parts
    judge = Judge(gain)
    settings = ctm(discriminator=Perceptron(), adversarial=0.7)
    terms, (reached, goal) = call(settings, judge)
    plain, _ = call(ctm())

    def two(values):
        with torch.no_grad():
            network.last.weight.copy_(values)
        _, (moved, _) = call(ctm(denoising=0.0))
        return torch.stack([(moved - goal).square().sum(1).mean(), -judge(moved).mean()]).detach()

    start, step = network.last.weight.detach().clone(), 1e-5
    gradients = torch.zeros(2, *start.shape, dtype=torch.float64)
    for row in range(start.shape[0]):
        for column in range(start.shape[1]):
            ends = []
            for sign in (1, -1):
                values = start.clone()
                values[row, column] += sign * step
                ends.append(two(values))
            gradients[:, row, column] = (ends[0] - ends[1]) / (2 * step)
    consistency, doubt = gradients.flatten(1).norm(dim=1)
    ratio = consistency / (doubt + 1e-4)
    expected = min(max(ratio.item(), 0.01), 10.0)
    assert expected == pytest.approx(ratio.item() if bounds is None else bounds)
    added = 0.7 * expected * -judge(reached).mean().item()
    assert (terms.loss - plain.loss).item() == pytest.approx(added, rel=1e-6)
    hinge = (1 - judge(data)).clamp(min=0).mean() + (1 + judge(reached)).clamp(min=0).mean()
    torch.testing.assert_close(terms.beside, hinge)
    # Once more through the target; 3 for data, 3 for samples, and a forward with two gradients by its input.
    assert terms.forward_units == plain.forward_units + 12 * (1 + 3 + 3 + 3)


def test_forward_units_count_the_passes_of_the_discriminator(parts):
    """A gradient by the weights is two units, one that passes through to the samples is one."""
    call, _, _ = parts
    judge, units = Perceptron(width=4).build((2,)).double(), []

    def count(module, inputs, output):
        (x,) = inputs
        cost = 1 if x.requires_grad else 2
        units.append(len(x))
        output.register_hook(lambda gradient: units.append(cost * len(gradient)))

    judge.register_forward_hook(count)
    terms, _ = call(ctm(discriminator=Perceptron()), judge)
    (terms.loss + terms.beside).backward()
    plain, _ = call(ctm())
    once_more_through_the_target = 12
    assert terms.forward_units - plain.forward_units == sum(units) + once_more_through_the_target


def test_balanced_term_costs_its_own_passes_and_one_more_of_the_target(parts):
    call, _, _ = parts
    both, alone = call(ctm())[0], call(ctm(denoising=0.0))[0]
    assert both.forward_units - alone.forward_units == 12 * (3 + 1)


def test_network_and_discriminator_get_the_gradient_of_their_own_loss_only(parts):
    call, network, _ = parts
    judge = Judge(1.0)
    terms, _ = call(ctm(discriminator=Perceptron()), judge)
    weights = list(network.parameters())
    of_loss = torch.autograd.grad(terms.loss, weights, retain_graph=True)
    of_beside = torch.autograd.grad(terms.beside, judge.gain, retain_graph=True)[0]
    (terms.loss + terms.beside).backward()
    for weight, gradient in zip(weights, of_loss, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=0, atol=0)
    torch.testing.assert_close(judge.gain.grad, of_beside, rtol=0, atol=0)
    plain, _ = call(ctm())
    others = torch.autograd.grad(plain.loss, weights)
    assert any((one != other).any() for one, other in zip(of_loss, others, strict=True))


@pytest.mark.parametrize(
    ("fields", "step"), [({"adversarial": 0.0}, 7), ({"adversarial_after": 12 * 7 + 1}, 7)], ids=["zero", "early"]
)
def test_without_weight_and_before_its_time_there_is_no_term(parts, fields, step):
    call, _, _ = parts
    terms, _ = call(ctm(discriminator=Perceptron(), **fields), Judge(1.0), step)
    plain, _ = call(ctm(), step=step)
    assert terms.loss.item() == plain.loss.item()
    assert terms.beside is None
    assert terms.forward_units == plain.forward_units


def test_only_a_discriminator_that_has_a_say_is_built():
    assert ctm().companion((2,)) is None
    assert ctm(discriminator=Perceptron(), adversarial=0.0).companion((2,)) is None
    assert ctm(discriminator=Perceptron()).companion((2,))(torch.zeros(3, 2)).shape == (3,)
    fast = dataclasses.replace(Convolutional().optimizer, lr=0.5)
    assert ctm(discriminator=Convolutional(optimizer=fast)).companion_optimizer == fast


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"discriminator": "convolutional"},
            "objective 'ctm' has the discriminator 'convolutional', which needs images",
        ),
        (
            {"discriminator": "perceptron", "adversarial_after": 1_000},
            "objective 'ctm' must have adversarial_after below training.num_images = 1000, got 1000",
        ),
        ({"adversarial": -1}, "adversarial must be >= 0, got -1"),
        ({"adversarial_after": -1}, "adversarial_after must be >= 0, got -1"),
        ({"discriminator": {"name": "perceptron", "width": 0}}, "width must be at least 1, got 0"),
        ({"discriminator": {"name": "convolutional", "channels": 0}}, "channels must be at least 1, got 0"),
    ],
)
def test_meaningless_settings_are_refused(fields, message):
    with pytest.raises(ConfigError) as caught:
        Experiment.from_dict(
            {
                "name": "x",
                "data": {"name": "gaussians_2m2m"},
                "network": {"name": "mlp"},
                "coupling": "independent",
                "objective": {"name": "ctm", **fields},
                "training": {"num_images": 1_000},
                "evaluation": {"every_images": 1_000},
            }
        )
    assert message in str(caught.value)
