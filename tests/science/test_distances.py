"""Distances against their formulas and published constants."""

from __future__ import annotations

import math

import pytest
import torch

from gcsearch.science.distances import L1, ElementwisePseudoHuber, PseudoHuber, SquaredL2


def pair(size, shape=(3, 4, 4), num=6, dtype=torch.float64):
    stream = torch.Generator().manual_seed(1)
    first = torch.randn(num, *shape, generator=stream, dtype=dtype)
    return first, first + size * torch.randn(num, *shape, generator=stream, dtype=dtype)


@pytest.mark.parametrize(
    ("shape", "expected"), [((3, 32, 32), 0.02993), ((3, 64, 64), 0.05986), ((1, 28, 28), 0.01512), ((2,), 7.64e-4)]
)
def test_offset_of_the_pseudo_huber_distance_equals_the_published_values(shape, expected):
    first = torch.zeros(1, *shape, dtype=torch.float64)
    second = torch.full((1, *shape), 1e6, dtype=torch.float64)
    norm = 1e6 * math.sqrt(first.numel())
    # Far out, the distance is the norm less the offset.
    assert (norm - PseudoHuber()(first, second)).item() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 10.0])
@pytest.mark.parametrize("c", [0.00054, 0.03, 1.0])
def test_pseudo_huber_equals_a_loop_over_the_formula(size, c):
    first, second = pair(size)
    offset = c * math.sqrt(48)
    expected = []
    for a, b in zip(first.flatten(1).tolist(), second.flatten(1).tolist(), strict=True):
        squares = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
        expected.append(math.sqrt(squares + offset**2) - offset)
    torch.testing.assert_close(
        PseudoHuber(c=c)(first, second), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-15
    )


def test_pseudo_huber_is_quadratic_near_zero():
    first, second = pair(1e-7)
    squares = (first - second).flatten(1).square().sum(1)
    expected = squares / (2 * 0.00054 * math.sqrt(48))
    torch.testing.assert_close(PseudoHuber()(first, second), expected, rtol=1e-6, atol=0)


def test_pseudo_huber_is_the_norm_far_out():
    first, second = pair(100.0)
    norm = (first - second).flatten(1).norm(dim=1)
    torch.testing.assert_close(PseudoHuber()(first, second), norm, rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [1e-6, 1e-5, 1e-3, 1.0])
def test_pseudo_huber_in_single_precision_agrees_with_double(size):
    first, second = pair(size, shape=(3, 32, 32), dtype=torch.float32)
    expected = PseudoHuber()(first.double(), second.double())
    torch.testing.assert_close(PseudoHuber()(first, second).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [1e-6, 1e-2, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_pseudo_huber_is_the_difference_over_the_root(size, dtype):
    first, second = pair(size, dtype=dtype)
    first.requires_grad_()
    PseudoHuber()(first, second).sum().backward()
    difference = (first - second).detach()
    root = (difference.flatten(1).square().sum(1) + 48 * 0.00054**2).sqrt()
    torch.testing.assert_close(first.grad, difference / root[:, None, None, None], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(2,), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("c", [0.00054, 0.01, 0.03, 0.3])
def test_pseudo_huber_of_identical_examples_is_zero_for_every_offset(shape, c):
    x = torch.ones(1, *shape)
    torch.testing.assert_close(PseudoHuber(c=c)(x, x), torch.zeros(1), rtol=0, atol=0)


def test_pseudo_huber_is_of_the_whole_example_and_not_per_pixel():
    first, second = torch.zeros(1, 100), torch.ones(1, 100)
    assert PseudoHuber()(first, second).item() == pytest.approx(10.0, rel=1e-2)


def test_squared_and_absolute_distances_sum_over_the_example():
    first, second = torch.zeros(2, 1, 2), torch.tensor([[[3.0, -4.0]], [[1.0, 1.0]]])
    torch.testing.assert_close(SquaredL2()(first, second), torch.tensor([25.0, 2.0]))
    torch.testing.assert_close(L1()(first, second), torch.tensor([7.0, 2.0]))


@pytest.mark.parametrize("c", [0.0, -1.0, math.nan])
def test_meaningless_offset_is_rejected(c):
    with pytest.raises(ValueError, match="c must be > 0, got"):
        PseudoHuber(c=c)


@pytest.mark.parametrize("size", [1e-4, 0.1, 10.0])
@pytest.mark.parametrize("c", [0.00054, 0.03, 1.0])
def test_elementwise_pseudo_huber_equals_a_loop_over_the_formula(size, c):
    first, second = pair(size)
    offset = c * math.sqrt(48)
    expected = [
        sum(math.sqrt((p - q) ** 2 + offset**2) - offset for p, q in zip(a, b, strict=True))
        for a, b in zip(first.flatten(1).tolist(), second.flatten(1).tolist(), strict=True)
    ]
    torch.testing.assert_close(
        ElementwisePseudoHuber(c=c)(first, second), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-12
    )


def test_elementwise_pseudo_huber_is_that_of_the_whole_example_for_one_scalar_only():
    first, second = pair(0.01, shape=(1,))
    torch.testing.assert_close(ElementwisePseudoHuber()(first, second), PseudoHuber()(first, second))
    first, second = pair(0.01)
    assert (ElementwisePseudoHuber()(first, second) > 1.5 * PseudoHuber()(first, second)).all()


def test_elementwise_pseudo_huber_is_the_absolute_distance_far_out():
    first, second = torch.zeros(1, 100), torch.ones(1, 100)
    assert ElementwisePseudoHuber()(first, second).item() == pytest.approx(100.0, rel=1e-2)


@pytest.mark.parametrize("c", [0.0, -1.0, math.nan])
def test_meaningless_offset_of_the_elementwise_form_is_rejected(c):
    with pytest.raises(ValueError, match="c must be > 0, got"):
        ElementwisePseudoHuber(c=c)
