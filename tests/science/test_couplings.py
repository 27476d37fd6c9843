"""Independent and generator-augmented coupling."""

from __future__ import annotations

import pytest
import torch

from gcsearch.science.couplings import Generator, Independent
from gcsearch.science.process import Bridge, VarianceExploding

BATCH = 10


class Asked:
    """A predictor that answers with a constant and remembers what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = []

    def __call__(self, noisy, sigma):
        self.calls.append((noisy, sigma, torch.is_grad_enabled()))
        return torch.full_like(noisy, self.answer)


def inputs(batch_size=BATCH):
    stream = torch.Generator().manual_seed(3)
    return {
        "data": torch.rand(batch_size, 2, generator=stream) - 0.5,
        "noise": torch.randn(batch_size, 2, generator=stream),
        "sigma_lower": torch.rand(batch_size, generator=stream) + 0.1,
        "selection": torch.randperm(batch_size, generator=stream),
    }


def pair(coupling, progress=0.5, process=None, **predictors):
    predictors = predictors or {"ema": Asked(9.0), "online": Asked(7.0)}
    given = inputs()
    ends = coupling.pair(process=process or VarianceExploding(), predictors=predictors, progress=progress, **given)
    return given, ends


def generated_rows(ends, given):
    return set((ends.data != given["data"]).any(1).nonzero().flatten().tolist())


def test_independent_coupling_returns_the_very_inputs():
    given, ends = pair(Independent())
    assert ends.data is given["data"]
    assert ends.noise is given["noise"]


def test_zero_mu_is_independent_coupling_and_asks_no_predictor():
    predictor = Asked(9.0)
    given, ends = pair(Generator(mu=0.0), ema=predictor, online=predictor)
    torch.testing.assert_close(ends.data, given["data"], rtol=0, atol=0)
    assert predictor.calls == []


def test_unit_mu_generates_every_end_point():
    _, ends = pair(Generator(mu=1.0))
    torch.testing.assert_close(ends.data, torch.full((BATCH, 2), 9.0))


@pytest.mark.parametrize("mu", [0.1, 0.25, 0.5, 0.7, 0.98])
def test_first_of_the_selection_are_generated_and_the_others_kept(mu):
    given, ends = pair(Generator(mu=mu))
    count = int(mu * BATCH + 0.5)
    chosen, others = given["selection"][:count], given["selection"][count:]
    torch.testing.assert_close(ends.data[chosen], torch.full((count, 2), 9.0))
    torch.testing.assert_close(ends.data[others], given["data"][others], rtol=0, atol=0)


@pytest.mark.parametrize(("lower", "higher"), [(0.3, 0.7), (0.1, 0.2), (0.5, 1.0)])
def test_examples_generated_at_a_small_mu_are_also_generated_at_a_large_one(lower, higher):
    few, many = (generated_rows(ends, given) for given, ends in (pair(Generator(mu=mu)) for mu in (lower, higher)))
    assert few < many


@pytest.mark.parametrize("batch_size", [1, 7, 64, 512])
def test_number_generated_is_the_rounded_share_of_the_batch(batch_size):
    shares = [step / 100 for step in range(101)]
    counts = [Generator(mu=share).num_generated(batch_size, 0.2) for share in shares]
    assert all(abs(count - share * batch_size) <= 0.5 + 1e-9 for count, share in zip(counts, shares, strict=True))
    assert (counts[0], counts[-1]) == (0, batch_size)
    assert counts == sorted(counts)


def test_sweep_of_mu_is_linear_in_generated_examples():
    counts = [Generator(mu=step / 16).num_generated(64, 0.0) for step in range(17)]
    assert counts == [4 * step for step in range(17)]


@pytest.mark.parametrize("name", ["ema", "online"])
def test_named_predictor_is_the_one_that_is_asked(name):
    predictors = {"ema": Asked(9.0), "online": Asked(7.0)}
    _, ends = pair(Generator(mu=1.0, predictor=name), **predictors)
    torch.testing.assert_close(ends.data, torch.full((BATCH, 2), predictors[name].answer))
    assert [len(predictor.calls) for key, predictor in predictors.items() if key != name] == [0]


@pytest.mark.parametrize("process", [VarianceExploding(), Bridge()])
def test_predictor_sees_the_chosen_states_at_their_lower_level_without_gradient(process):
    predictor = Asked(9.0)
    given, _ = pair(Generator(mu=0.4), process=process, ema=predictor, online=predictor)
    ((noisy, sigma, grad_enabled),) = predictor.calls
    chosen = given["selection"][:4].tolist()
    expected = []
    for row in chosen:
        level = given["sigma_lower"][row]
        state = given["data"][row] + level * given["noise"][row]
        expected.append(state / (1 + level) if process.name == "bridge" else state)
    torch.testing.assert_close(noisy, torch.stack(expected))
    torch.testing.assert_close(sigma, given["sigma_lower"][chosen], rtol=0, atol=0)
    assert not grad_enabled


def test_generated_end_points_carry_no_gradient_of_the_predictor():
    scale = torch.ones((), requires_grad=True)
    _, ends = pair(Generator(mu=1.0), ema=lambda noisy, sigma: scale * noisy)
    assert not ends.data.requires_grad


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mu": 0.4}, [0.4, 0.4, 0.4, 0.4, 0.4]),
        ({"mu": 0.0, "mu_end": 1.0}, [0.0, 0.25, 0.5, 0.75, 0.999]),
        ({"mu": 0.8, "mu_end": 0.4}, [0.8, 0.7, 0.6, 0.5, 0.4004]),
        ({"mu": 0.4, "start": 0.5}, [0.0, 0.0, 0.4, 0.4, 0.4]),
        ({"mu": 0.4, "end": 0.5}, [0.4, 0.4, 0.0, 0.0, 0.0]),
        ({"mu": 0.0, "mu_end": 1.0, "start": 0.25, "end": 0.75}, [0.0, 0.0, 0.5, 0.0, 0.0]),
    ],
)
def test_mu_follows_its_schedule_over_the_horizon(settings, expected):
    rates = [Generator(**settings).mixing_rate(progress) for progress in (0.0, 0.25, 0.5, 0.75, 0.999)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mu": 1.5}, r"mu must be in \[0, 1\], got 1.5"),
        ({"mu": -0.1}, "mu must be in"),
        ({"mu_end": 2.0}, "mu_end must be in"),
        ({"mu": float("nan")}, "mu must be in"),
        ({"start": 0.5, "end": 0.5}, "0 <= start < end <= 1"),
        ({"end": 1.5}, "0 <= start < end <= 1"),
    ],
)
def test_meaningless_settings_are_rejected_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        Generator(**settings)
