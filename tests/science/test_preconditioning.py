"""The consistency function as a callable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gcsearch.science.dropout import keep_mask
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.unet import UNet
from gcsearch.science.preconditioning import ConsistencyFunction, per_example, unit_variance
from gcsearch.science.process import Bridge, ConditionalOT, Linear, TrigFlow, VarianceExploding

PROCESSES = [
    VarianceExploding(),
    Bridge(),
    Bridge(conditioning="unit_variance"),
    Linear(),
    Linear(conditioning="unit_variance"),
    ConditionalOT(),
    TrigFlow(),
]


class Probe(nn.Module):
    """Remembers what it was called with and answers with a dropout mask, or zeros."""

    def forward(self, x, conditioning, dropout=None):
        self.seen = x, conditioning, dropout
        return torch.zeros_like(x) if dropout is None else keep_mask(x.shape, 0.5, dropout, 0).to(x.dtype)


@pytest.mark.parametrize("process", PROCESSES)
def test_function_is_skip_plus_out_times_network(process, rng):
    network = nn.Linear(3, 3)
    wrapped = Probe()
    wrapped.forward = lambda x, conditioning, dropout: network(x) * conditioning[:, None]
    x, sigma = torch.randn(4, 3, generator=rng), process.grid(4)
    weights = process.preconditioning(sigma)
    for row in range(4):
        inner = network(weights.scale[row] * x[row]) * weights.conditioning[row]
        expected = weights.skip[row] * x[row] + weights.out[row] * inner
        torch.testing.assert_close(ConsistencyFunction(wrapped, process)(x, sigma)[row], expected)


def test_network_is_given_scaled_input_and_the_level():
    probe = Probe()
    ConsistencyFunction(probe, VarianceExploding())(torch.full((1, 2), 3.0), torch.tensor([1.2]))
    x, conditioning, dropout = probe.seen
    torch.testing.assert_close(x, torch.full((1, 2), 3.0 / 1.3))
    torch.testing.assert_close(conditioning, torch.tensor([1.2]).log() / 4)
    assert dropout is None


@pytest.mark.usefixtures("unchanged_global_rng")
def test_same_dropout_seed_is_the_same_mask_and_another_seed_is_another():
    function = ConsistencyFunction(Probe(), VarianceExploding())
    x, sigma = torch.zeros(3, 4), torch.full((3,), 1.0)
    first, again, other = function(x, sigma, 5), function(x, sigma, 5), function(x, sigma, 6)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert (first != other).any()


def test_dropout_seeds_of_64_bits_are_accepted():
    function = ConsistencyFunction(Probe(), VarianceExploding())
    assert function(torch.zeros(1, 2), torch.ones(1), 2**64 - 1).isfinite().all()


def test_only_the_network_runs_in_bf16(rng):
    network = initialize(UNet(channels=8), (1, 8, 8), 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.1, generator=rng)
    x, sigma = torch.randn(2, 1, 8, 8, generator=rng), torch.tensor([0.002, 1.0])
    half = ConsistencyFunction(network, VarianceExploding(), "bf16")(x, sigma)
    full = ConsistencyFunction(network, VarianceExploding())(x, sigma)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half[0], x[0], rtol=0, atol=0)
    assert (half[1] != full[1]).any()
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2, 2)])
def test_one_value_per_example_broadcasts_over_the_event(shape):
    scaled = per_example(torch.arange(4.0), torch.ones(shape)) * torch.ones(shape)
    torch.testing.assert_close(scaled.reshape(4, -1)[:, 0], torch.arange(4.0))


@pytest.mark.parametrize("process", PROCESSES)
def test_boundary_is_exact_in_bf16_too(process, rng):
    x = torch.randn(5, 3, generator=rng)
    sigma = torch.full((5,), process.sigma_min)
    probe = Probe()
    probe.forward = lambda x, conditioning, dropout: torch.full_like(x, 1e6)
    torch.testing.assert_close(ConsistencyFunction(probe, process, "bf16")(x, sigma), x, rtol=0, atol=0)


@pytest.mark.parametrize("process", PROCESSES)
def test_network_is_told_a_finite_level_that_grows_with_sigma(process):
    told = process.preconditioning(process.grid(100)).conditioning
    assert told.isfinite().all()
    assert (told.diff() > 0).all()


@pytest.mark.parametrize(("data", "noise"), [(1.0, 0.5), (0.3, 0.7), (0.0, 1.0), (0.6, 0.4)])
def test_unit_variance_is_the_best_linear_denoiser(data, noise):
    """Of all c_skip, the one whose residual is smallest; then c_out is the residual's size."""
    a, b = torch.tensor([data], dtype=torch.float64), torch.tensor([noise], dtype=torch.float64)
    got = unit_variance(a, b, a, b, b, sigma_data=1.3)
    skips = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    residual = ((1 - skips * a) * 1.3).square() + (skips * b).square()
    assert got.skip.item() == pytest.approx(skips[residual.argmin()].item(), abs=1e-4)
    assert got.out.item() == pytest.approx(residual.min().sqrt().item(), rel=1e-6)
