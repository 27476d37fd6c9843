"""Samplers on the exact consistency function of a Gaussian."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from gcsearch.registry import registries
from gcsearch.science.oracles import ExactConsistency, GaussianMixture, MixtureFlow
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import Bridge, VarianceExploding
from gcsearch.science.samplers import Heun, Multistep, OneStep

MEAN = torch.tensor([0.3, -0.8], dtype=torch.float64)
PROCESSES = [VarianceExploding(), Bridge(), VarianceExploding(sigma_min=0.1, sigma_max=20.0)]


def stages(num, count, seed=0):
    stream = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, num, 2, generator=stream, dtype=torch.float64)
    return lambda stage: noise[stage]


def assert_moments(samples, mean, variance, sigmas=5.0):
    """Mean and covariance within so many standard errors."""
    num = len(samples)
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=sigmas * math.sqrt(variance / num))
    covariance = variance * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=sigmas * variance * math.sqrt(2 / num))


@pytest.mark.parametrize("std", [0.05, 0.5, 1.5])
def test_one_step_on_the_exact_map_is_the_affine_map_of_its_latents(std):
    process, noise = VarianceExploding(), stages(7, 1)
    samples = OneStep()(ExactConsistency(process, MEAN, std), noise)
    slope = math.sqrt((std**2 + 0.002**2) / (std**2 + 80.0**2))
    torch.testing.assert_close(samples, MEAN + slope * (80.0 * noise(0) - MEAN), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("process", PROCESSES)
def test_one_step_on_the_exact_map_reproduces_mean_and_covariance(process):
    std, num = 0.5, 40_000
    samples = OneStep()(ExactConsistency(process, MEAN, std), stages(num, 1))
    coefficients = process.coefficients(torch.tensor([process.sigma_min], dtype=torch.float64))
    scale = coefficients.data.item()
    # What is left of the start at sigma_max instead of infinity is a share std / sigma_max of the mean.
    slack = process.sigma_max / math.hypot(process.sigma_max, std)
    target = scale * MEAN * (1 - math.hypot(std, process.sigma_min) / math.hypot(process.sigma_max, std))
    assert_moments(samples, target, (scale * slack) ** 2 * (std**2 + process.sigma_min**2))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("levels", [(0.821,), (5.0, 1.0, 0.2)])
def test_multistep_renoising_keeps_the_marginal(process, levels):
    std, num = 0.5, 40_000
    sampler = Multistep(levels=levels, clip=False)
    centre = torch.zeros(2, dtype=torch.float64)
    samples = sampler(ExactConsistency(process, centre, std), stages(num, 4))
    scale = process.coefficients(torch.tensor([process.sigma_min], dtype=torch.float64)).data.item()
    assert_moments(samples, centre, scale**2 * (std**2 + process.sigma_min**2))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("levels", [(0.821,), (10.0, 2.0, 0.4)])
def test_multistep_equals_a_loop_over_algorithm_1(levels, clip):
    std, noise = 1.5, stages(5, 4)

    def exact(x, sigma):
        return [
            m + math.sqrt((std**2 + 0.002**2) / (std**2 + sigma**2)) * (v - m)
            for v, m in zip(x, MEAN.tolist(), strict=True)
        ]

    expected = []
    for row in range(5):
        x = exact([80.0 * z for z in noise(0)[row].tolist()], 80.0)
        for stage, tau in enumerate(levels, start=1):
            kept = [min(max(value, -1.0), 1.0) for value in x] if clip else x
            fresh = noise(stage)[row].tolist()
            x = exact([v + math.sqrt(tau**2 - 0.002**2) * z for v, z in zip(kept, fresh, strict=True)], tau)
        expected.append(x)
    got = Multistep(levels=levels, clip=clip)(ExactConsistency(VarianceExploding(), MEAN, std), noise)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_each_stage_uses_its_own_noise_once():
    asked = []
    noise = stages(3, 4)
    Multistep(levels=(5.0, 1.0, 0.2))(
        ExactConsistency(VarianceExploding(), MEAN, 0.5), lambda stage: (asked.append(stage), noise(stage))[1]
    )
    assert asked == [0, 1, 2, 3]


def test_function_is_called_at_sigma_max_and_then_at_the_levels():
    class Recorded(ExactConsistency):
        levels = ()

        def __call__(self, noisy, sigma, dropout_seed=None):
            self.levels += (round(sigma[0].item(), 6),)
            assert dropout_seed is None
            return super().__call__(noisy, sigma)

    function = Recorded(VarianceExploding(), MEAN, 0.5)
    Multistep(levels=(5.0, 1.0))(function, stages(3, 3))
    assert function.levels == (80.0, 5.0, 1.0)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((), "must not be empty"),
        ((1.0, 1.0), "must be decreasing"),
        ((1.0, 2.0), "must be decreasing"),
        ((0.0,), "> 0"),
    ],
)
def test_meaningless_levels_are_rejected(levels, message):
    with pytest.raises(ValueError, match=message):
        Multistep(levels=levels)


# Heun's method ----------------------------------------------------------------------------------------------------


class Denoiser(ConsistencyFunction):
    """The exact mean of Gaussian data at every state, as a trained denoiser would be."""

    def __init__(self, process, mean, std):
        super().__init__(torch.nn.Identity(), process)
        self.flow = MixtureFlow(process=process, data=GaussianMixture(means=mean[None], std=std))

    def __call__(self, noisy, sigma, dropout_seed=None):
        return self.flow.denoised(noisy, sigma)


@pytest.mark.parametrize("name", sorted(registries["process"]))
def test_heun_follows_the_flow_to_its_end_with_second_order(name):
    process, mean = registries["process"][name](), torch.tensor([0.5, -0.3], dtype=torch.float64)
    noise = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = ExactConsistency(process, mean, 0.4)
    start = process.initial_state(noise)
    expected = exact(start, torch.full((16,), process.sigma_max, dtype=torch.float64))
    errors = []
    for num_levels in (33, 65, 129):
        samples = Heun(num_levels=num_levels)(Denoiser(process, mean, 0.4), lambda stage: noise)
        errors.append(float((samples - expected).abs().max()))
    ratios = [first / second for first, second in itertools.pairwise(errors)]
    assert ratios == pytest.approx([4, 4], rel=0.25)
    assert errors[-1] < 1e-3


def test_heun_counts_two_evaluations_a_step_and_refuses_a_single_level():
    assert Heun().num_evaluations == 34
    with pytest.raises(ValueError, match="num_levels must be at least 2, got 1"):
        Heun(num_levels=1)
