"""Independent coupling, minibatch optimal transport and generator-augmented coupling."""

from __future__ import annotations

import itertools

import pytest
import torch

from gcsearch.config import build
from gcsearch.registry import spec
from gcsearch.science.couplings import Generator, Independent, OptimalTransport, Unpaired, optimal_permutation
from gcsearch.science.ema import Constant, PowerWarmup
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


def ends_of(coupling, given, predictors, progress=0.5, process=None):
    batch = Unpaired(
        data=given["data"],
        noise=coupling.arrange(given["data"], given["noise"]),
        chosen=coupling.chosen(given["selection"], progress),
        sigma_lower=given["sigma_lower"],
        process=process or VarianceExploding(),
        predictors=predictors,
    )
    return coupling.pair(batch)


def pair(coupling, progress=0.5, process=None, **predictors):
    predictors = predictors or {"ema": Asked(9.0), "online": Asked(7.0)}
    given = inputs()
    return given, ends_of(coupling, given, predictors, progress, process)


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
        ({"predictor": "frozen"}, "checkpoint must name a file if predictor is 'frozen', got None"),
        ({"predictor": "frozen", "checkpoint": ""}, "checkpoint must name a file if predictor is 'frozen', got ''"),
        ({"checkpoint": "x.pt"}, "checkpoint must be left out unless predictor is 'frozen', got 'x.pt' and"),
        ({"predictor": "online", "checkpoint": "x.pt"}, "checkpoint must be left out .* and predictor 'online'"),
        ({"predictor_ema": (Constant(), Constant())}, "predictor_ema must be one average, got 2"),
        ({"predictor": "online", "predictor_ema": (Constant(),)}, "predictor_ema must be left out unless .* 'online'"),
        (
            {"predictor": "frozen", "checkpoint": "x.pt", "predictor_ema": (Constant(),)},
            "predictor_ema must be left out unless predictor is 'ema', got predictor 'frozen'",
        ),
    ],
)
def test_meaningless_settings_are_rejected_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        Generator(**settings)


# The generator's predictor, its average and the clamp ---------------------------------------------------------------


def test_frozen_predictor_is_asked_under_its_name():
    predictors = {"ema": Asked(9.0), "online": Asked(7.0), "frozen": Asked(5.0)}
    _, ends = pair(Generator(mu=1.0, predictor="frozen", checkpoint="x.pt"), **predictors)
    torch.testing.assert_close(ends.data, torch.full((BATCH, 2), 5.0))
    assert predictors["ema"].calls == predictors["online"].calls == []


@pytest.mark.parametrize("rule", [Constant(half_life_images=5_000.0), PowerWarmup(period=1)])
def test_average_of_the_predictor_is_written_like_any_component_and_read_back(rule):
    described = {"name": "generator", "predictor_ema": spec(rule)}
    assert build("coupling", described) == Generator(predictor_ema=(rule,))
    assert build("coupling", spec(Generator(predictor_ema=(rule,)))) == Generator(predictor_ema=(rule,))
    assert build("coupling", spec(Generator())) == Generator()


def test_clamp_clips_generated_end_points_alone():
    steep = lambda noisy, sigma: 5 * noisy  # noqa: E731
    given, plain = pair(Generator(mu=0.5), ema=steep)
    _, clamped = pair(Generator(mu=0.5, clamp=True), ema=steep)
    chosen, others = given["selection"][:5], given["selection"][5:]
    assert (plain.data[chosen].abs() > 1).any()
    torch.testing.assert_close(clamped.data[chosen], plain.data[chosen].clamp(-1, 1), rtol=0, atol=0)
    torch.testing.assert_close(clamped.data[others], given["data"][others], rtol=0, atol=0)


def test_clamp_leaves_real_data_outside_the_range_alone():
    given = inputs()
    given["data"] = given["data"] + 10
    predictors = {"ema": Asked(3.0)}
    ends = ends_of(Generator(mu=0.5, clamp=True), given, predictors)
    assert (ends.data[given["selection"][5:]] > 9).all()
    assert (ends.data[given["selection"][:5]] == 1).all()


# Optimal transport ------------------------------------------------------------------------------------------------


def cost(data, noise, order):
    """Sum over the pairs of the squared distance, in double precision."""
    return (data.double() - noise.double()[order]).square().sum().item()


def batch(size, shape=(3,), seed=0):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(size, *shape, generator=stream) * 0.5, torch.randn(size, *shape, generator=stream)


def sorted_rows(values):
    return sorted(map(tuple, values.flatten(1).tolist()))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("seed", range(5))
def test_assignment_equals_the_best_of_all_permutations(size, seed):
    data, noise = batch(size, seed=seed)
    best = min(itertools.permutations(range(size)), key=lambda order: cost(data, noise, list(order)))
    assert optimal_permutation(data, noise).tolist() == list(best)


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 4, 4)])
def test_assignment_costs_no_more_than_any_random_permutation(shape, rng):
    data, noise = batch(64, shape)
    least = cost(data, noise, optimal_permutation(data, noise))
    others = [cost(data, noise, torch.randperm(64, generator=rng)) for _ in range(200)]
    assert least < min(others)
    assert least < cost(data, noise, torch.arange(64))


@pytest.mark.parametrize("size", [1, 2, 64])
def test_transport_permutes_the_noise_and_nothing_else(size):
    data, noise = batch(size)
    given = {"data": data, "noise": noise, "sigma_lower": torch.ones(size), "selection": torch.arange(size)}
    ends = ends_of(OptimalTransport(), given, {})
    assert ends.data is data
    assert sorted_rows(ends.noise) == sorted_rows(noise)


def test_transport_of_pairs_that_are_already_best_changes_nothing():
    data, noise = batch(32)
    order = optimal_permutation(data, noise)
    torch.testing.assert_close(optimal_permutation(data, noise[order]), torch.arange(32), rtol=0, atol=0)


@pytest.mark.parametrize("repeated", ["data", "noise", "both"])
def test_duplicates_still_give_a_permutation_of_least_cost(repeated):
    data, noise = batch(6)
    data = data[[0, 0, 1, 1, 2, 2]] if repeated != "noise" else data
    noise = noise[[0, 1, 1, 1, 2, 2]] if repeated != "data" else noise
    order = optimal_permutation(data, noise)
    assert sorted(order.tolist()) == list(range(6))
    best = min(cost(data, noise, list(other)) for other in itertools.permutations(range(6)))
    assert cost(data, noise, order) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("process", [VarianceExploding(), Bridge()])
@pytest.mark.parametrize("sigma", [0.002, 0.1, 1.0, 80.0])
def test_one_assignment_is_best_at_every_level(process, sigma):
    data, noise = batch(6)
    coefficients = process.coefficients(torch.tensor([sigma], dtype=torch.float64))
    scaled_data, scaled_noise = coefficients.data * data.double(), coefficients.noise * noise.double()
    best = min(itertools.permutations(range(6)), key=lambda order: cost(scaled_data, scaled_noise, list(order)))
    assert optimal_permutation(data, noise).tolist() == list(best)


def test_assignment_does_not_depend_on_the_order_of_the_noise(rng):
    data, noise = batch(32)
    shuffled = noise[torch.randperm(32, generator=rng)]
    first, second = noise[optimal_permutation(data, noise)], shuffled[optimal_permutation(data, shuffled)]
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_close_costs_are_told_apart():
    # The released helper cuts costs to integers and returns the worse of these two.
    data = torch.tensor([[0.0], [0.1]])
    noise = torch.tensor([[30.9], [30.8]])
    assert optimal_permutation(data, noise).tolist() == [1, 0]


# Generator-augmented coupling over optimal transport --------------------------------------------------------------


def test_generator_over_transport_is_transport_and_then_the_generator():
    predict = lambda noisy, sigma: noisy / (1 + sigma[:, None])  # noqa: E731
    given, together = pair(Generator(mu=0.5, base="ot"), ema=predict)
    noise = given["noise"][optimal_permutation(given["data"], given["noise"])]
    assert (noise != given["noise"]).any()
    expected = given["data"].clone()
    for row in given["selection"][:5].tolist():
        level = given["sigma_lower"][row]
        expected[row] = (given["data"][row] + level * noise[row]) / (1 + level)
    torch.testing.assert_close(together.noise, noise, rtol=0, atol=0)
    torch.testing.assert_close(together.data, expected)


@pytest.mark.parametrize("settings", [{"mu": 0.0}, {"mu": 1.0, "start": 0.6}, {"mu": 1.0, "end": 0.2}])
def test_generator_over_transport_without_generated_examples_is_transport_bit_for_bit(settings):
    _, expected = pair(OptimalTransport())
    _, ends = pair(Generator(base="ot", **settings))
    torch.testing.assert_close(ends.noise, expected.noise, rtol=0, atol=0)
    torch.testing.assert_close(ends.data, expected.data, rtol=0, atol=0)
