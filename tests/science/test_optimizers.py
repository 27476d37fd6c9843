"""Optimizers against naive updates."""

from __future__ import annotations

import copy
import math

import lion_pytorch
import pytest
import torch
from torch import nn

from gcsearch.science.optimizers import Adam, AdamW, Lion, RAdam, can_skip, optimizers

START, GRADIENTS = [1.0, -2.0, 0.5], [[0.3, -1.0, 2.0], [-0.1, -0.5, -4.0], [0.7, 0.1, -0.2]]


def trained(settings):
    """Weights after steps with given gradients."""
    weights = nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = settings.build([weights])
    for gradient in GRADIENTS:
        weights.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return weights.detach()


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_lion_moves_each_weight_by_lr_along_the_sign_of_the_interpolated_momentum(weight_decay):
    expected = []
    for coordinate, weight in enumerate(START):
        momentum = 0.0
        for gradient in (row[coordinate] for row in GRADIENTS):
            weight *= 1 - 0.01 * weight_decay
            weight -= math.copysign(0.01, 0.8 * momentum + 0.2 * gradient)
            momentum = 0.6 * momentum + 0.4 * gradient
        expected.append(weight)
    got = trained(Lion(lr=0.01, betas=(0.8, 0.6), weight_decay=weight_decay))
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_lion_has_the_bits_of_the_published_package(weight_decay):
    draws = torch.Generator().manual_seed(0)
    own, theirs = ([nn.Parameter(torch.ones(shape)) for shape in ((40, 30), (7,), ())] for _ in range(2))
    optimizers = (
        Lion(lr=0.01, weight_decay=weight_decay).build(own),
        lion_pytorch.Lion(theirs, lr=0.01, betas=(0.9, 0.99), weight_decay=weight_decay),
    )
    for _ in range(50):
        for one, other in zip(own, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=draws)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(own, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [Lion(weight_decay=0.3), Adam(weight_decay=0.3), AdamW(), RAdam(weight_decay=0.3)])
def test_a_step_that_is_skipped_on_the_device_changes_nothing(settings):
    weights = nn.Parameter(torch.tensor(START))
    optimizer = settings.build([weights])
    assert can_skip(optimizer)
    optimizer.found_inf = torch.zeros(())
    weights.grad = torch.tensor(GRADIENTS[0])
    optimizer.step()
    assert (weights != torch.tensor(START)).all()
    before = copy.deepcopy((weights.detach(), optimizer.state_dict()))
    optimizer.found_inf = torch.ones(())
    weights.grad = torch.tensor([math.nan, math.inf, -math.inf])
    optimizer.step()
    torch.testing.assert_close((weights.detach(), optimizer.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_radam_that_may_skip_moves_as_pytorch_s_does_also_after_a_resume(weight_decay):
    settings, draws = RAdam(lr=0.01, weight_decay=weight_decay), torch.Generator().manual_seed(0)
    own, theirs = ([nn.Parameter(torch.ones(shape).double()) for shape in ((40, 30), (7,), ())] for _ in range(2))
    optimizer = settings.build(own)
    plain = torch.optim.RAdam(theirs, lr=0.01, weight_decay=weight_decay)
    for step in range(30):  # over the end of the steps that are not rectified
        optimizer.found_inf = torch.zeros((), dtype=torch.float64)
        for index, (one, other) in enumerate(zip(own, theirs, strict=True)):
            gradient = torch.randn(one.shape, generator=draws, dtype=torch.float64)
            one.grad, other.grad = (None, None) if index == 1 and step % 3 else (gradient, gradient.clone())
        optimizer.step()
        plain.step()
        if step == 12:
            stored, optimizer = optimizer.state_dict(), settings.build(own)
            optimizer.load_state_dict(stored)
    torch.testing.assert_close(own, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        optimizer.state_dict()["state"], plain.state_dict()["state"], rtol=1e-10, atol=1e-12, check_dtype=False
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("name", optimizers)
def test_moves_for_a_compiled_step_are_those_of_the_optimizer(name, weight_decay):
    settings, draws = optimizers[name](lr=0.01, weight_decay=weight_decay), torch.Generator().manual_seed(0)
    assert settings.can_compile
    weight = nn.Parameter(torch.randn(40, generator=draws, dtype=torch.float64))
    optimizer = settings.build([weight])
    for count in range(1, 31):  # over the end of RAdam's steps that are not rectified
        weight.grad = torch.randn(40, generator=draws, dtype=torch.float64)
        before, state = weight.detach().clone(), copy.deepcopy(dict(optimizer.state[weight]))
        optimizer.step()
        if state:  # set up by the first step
            factors = [torch.tensor(factor, dtype=torch.float64) for factor in settings.factors(count)]
            moved, changed = settings.moved(before, weight.grad, state, factors)
            torch.testing.assert_close(moved, weight.detach())
            torch.testing.assert_close(changed, {key: optimizer.state[weight][key] for key in changed})
            assert set(state) - set(changed) <= {"step"}


def test_optimizers_that_cannot_skip_are_known():
    assert can_skip(RAdam().build([nn.Parameter(torch.ones(1))]))
    assert not can_skip(torch.optim.SGD([nn.Parameter(torch.ones(1))]))


@pytest.mark.parametrize(("cls", "decoupled"), [(Adam, False), (AdamW, True)])
def test_adam_and_adamw_treat_weight_decay_as_their_papers_do(cls, decoupled):
    expected = []
    for coordinate, weight in enumerate(START):
        first = second = 0.0
        for step, gradient in enumerate((row[coordinate] for row in GRADIENTS), start=1):
            if decoupled:
                weight *= 1 - 0.01 * 0.3
            else:
                gradient += 0.3 * weight
            first = 0.8 * first + 0.2 * gradient
            second = 0.9 * second + 0.1 * gradient**2
            weight -= 0.01 * (first / (1 - 0.8**step)) / (math.sqrt(second / (1 - 0.9**step)) + 1e-8)
        expected.append(weight)
    got = trained(cls(lr=0.01, betas=(0.8, 0.9), weight_decay=0.3))
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_radam_starts_with_plain_momentum():
    # Its rectification is off while the variance of the second moment is unbounded, here the first steps.
    expected = []
    for coordinate, weight in enumerate(START):
        first = 0.0
        for step, gradient in enumerate((row[coordinate] for row in GRADIENTS), start=1):
            first = 0.9 * first + 0.1 * gradient
            weight -= 0.01 * first / (1 - 0.9**step)
        expected.append(weight)
    torch.testing.assert_close(trained(RAdam(lr=0.01)), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("cls", [Lion, Adam, AdamW, RAdam])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0.0}, "lr must be > 0"),
        ({"betas": (0.9, 1.0)}, "betas must be in"),
        ({"weight_decay": -0.1}, "weight_decay must be >= 0"),
    ],
)
def test_meaningless_settings_are_rejected_by_name(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)


def test_published_defaults_are_kept():
    assert (Lion().lr, Lion().betas, Lion().weight_decay) == (1e-4, (0.9, 0.99), 0.0)
