"""Laws of every component, and those of processes, schedules, samplers and objectives. New ones are tested unasked."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from abc import ABC

import pytest
import torch
from torch import nn

from gcsearch.registry import Component, registries, spec
from gcsearch.science.couplings import Independent
from gcsearch.science.distances import PseudoHuber
from gcsearch.science.networks.base import initialize, seeded
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.objectives import Models, Recipe
from gcsearch.science.oracles import ExactConsistency
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import VarianceExploding
from gcsearch.science.randomness import draw_step
from gcsearch.science.schedules import Fixed, InverseGap, Lognormal

KINDS = (
    "process",
    "timesteps",
    "levels",
    "weighting",
    "coupling",
    "distance",
    "objective",
    "discriminator",
    "network",
    "ema",
    "optimizer",
    "sampler",
    "teacher",
)


def members(*kinds: str):
    """Parameters of a test over the classes of some kinds."""
    return [pytest.param(registries[kind][name], id=f"{kind}-{name}") for kind in kinds for name in registries[kind]]


def concrete_subclasses(cls: type) -> set[type]:
    below = {leaf for child in cls.__subclasses__() for leaf in concrete_subclasses(child)}
    is_base = inspect.isabstract(cls) or ABC in cls.__bases__ or cls is Component
    return below if is_base else below | {cls}


class Constant(nn.Module):
    """A network that always says the same large number."""

    def forward(self, x, conditioning, dropout=None):
        del conditioning, dropout
        return torch.full_like(x, 1e6)


# All kinds --------------------------------------------------------------------------------------------------------


def test_every_kind_of_the_science_has_members():
    assert all(len(registries[kind]) > 0 for kind in KINDS)


def test_every_concrete_component_of_the_package_is_registered():
    ours = {cls for cls in concrete_subclasses(Component) if cls.__module__.startswith("gcsearch.")}
    known = {registry[name] for registry in registries.values() for name in registry}
    assert ours == known
    assert len(ours) >= len(KINDS)


@pytest.mark.parametrize("cls", members(*KINDS))
class TestComponent:
    def test_is_a_frozen_dataclass(self, cls):
        assert cls.__dataclass_params__.frozen
        field = next(iter(dataclasses.fields(cls)), None)
        component = cls()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(component, field.name if field else "anything", None)

    def test_takes_keywords_only(self, cls):
        assert all(field.kw_only for field in dataclasses.fields(cls))

    def test_equal_settings_are_equal_and_hash_alike(self, cls):
        assert cls() == cls()
        assert hash(cls()) == hash(cls())

    def test_survives_pickling(self, cls):
        restored = pickle.loads(pickle.dumps(cls()))
        assert restored == cls()
        assert type(restored) is cls

    def test_has_a_docstring_of_its_own(self, cls):
        assert cls.__doc__ is not None
        assert not cls.__doc__.startswith(f"{cls.__name__}(")  # what `dataclass` writes when there is none

    def test_knows_its_kind_and_name(self, cls):
        assert registries[cls.kind][cls.name] is cls

    def test_spec_names_the_class_and_every_field(self, cls):
        description = spec(cls())
        assert description.pop("name") == cls.name
        assert set(description) == {field.name for field in dataclasses.fields(cls)}


# Process ----------------------------------------------------------------------------------------------------------


SIGMAS = [0.002, 0.0137, 0.3, 1.0, 7.5, 80.0]


@pytest.mark.each("process")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma_min", [0.001, 0.002, 0.003, 0.1])
def test_consistency_function_is_the_identity_at_sigma_min(component, dtype, sigma_min, rng):
    process = dataclasses.replace(component, sigma_min=sigma_min)
    x = torch.randn(5, 3, generator=rng, dtype=dtype)
    output = ConsistencyFunction(Constant(), process)(x, torch.full((5,), sigma_min, dtype=dtype))
    torch.testing.assert_close(output, x, rtol=0, atol=0)


@pytest.mark.each("process")
def test_consistency_function_uses_the_network_above_sigma_min(component):
    output = ConsistencyFunction(Constant(), component)(torch.zeros(1, 2), torch.tensor([1.0]))
    assert (output.abs() > 1e4).all()


@pytest.mark.each("process")
def test_coefficient_derivatives_equal_autograd(component):
    sigma = torch.tensor(SIGMAS, dtype=torch.float64, requires_grad=True)
    coefficients = component.coefficients(sigma)
    for value, derivative in (
        (coefficients.data, coefficients.data_derivative),
        (coefficients.noise, coefficients.noise_derivative),
    ):
        # The zero term gives constants, such as a = 1, a gradient to compare.
        (expected,) = torch.autograd.grad((value + 0 * sigma).sum(), sigma, retain_graph=True)
        torch.testing.assert_close(derivative, expected)


@pytest.mark.each("process")
def test_signal_to_noise_ratio_falls_with_sigma(component):
    # On the process's own levels: some end at 1, where no data is left (b / a is infinite, so its inverse is compared).
    coefficients = component.coefficients(component.grid(20).double())
    assert ((coefficients.data / coefficients.noise).diff() < 0).all()


@pytest.mark.each("process")
def test_add_noise_is_linear_with_the_coefficients(component, rng):
    data, noise = torch.randn(2, len(SIGMAS), 3, 2, generator=rng, dtype=torch.float64)
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    coefficients = component.coefficients(sigma)
    noisy = component.add_noise(data, noise, sigma)
    for row in range(len(SIGMAS)):
        expected = coefficients.data[row] * data[row] + coefficients.noise[row] * noise[row]
        torch.testing.assert_close(noisy[row], expected)


@pytest.mark.each("process")
def test_renoising_a_sample_of_the_smallest_level_gives_the_marginal_of_the_level(component):
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    one, zero = torch.ones(len(SIGMAS), 1, dtype=torch.float64), torch.zeros(len(SIGMAS), 1, dtype=torch.float64)
    kept, added = component.renoise(one, zero, sigma)[:, 0], component.renoise(zero, one, sigma)[:, 0]
    start = component.coefficients(torch.full_like(sigma, component.sigma_min))
    target = component.coefficients(sigma)
    torch.testing.assert_close(kept * start.data, target.data)
    torch.testing.assert_close((kept * start.noise).square() + added.square(), target.noise.square())


@pytest.mark.each("process")
def test_initial_state_is_the_noise_part_of_the_largest_level(component, rng):
    noise = torch.randn(4, 2, generator=rng)
    sigma = torch.full((4,), component.sigma_max)
    expected = component.add_noise(torch.zeros_like(noise), noise, sigma)
    torch.testing.assert_close(component.initial_state(noise), expected)


@pytest.mark.each("process")
@pytest.mark.parametrize("num_levels", [2, 3, 11, 321, 1281])
def test_grid_increases_between_exact_ends(component, num_levels):
    grid = component.grid(num_levels)
    assert grid.shape == (num_levels,)
    assert (grid.diff() > 0).all()
    ends = torch.tensor([component.sigma_min, component.sigma_max])
    torch.testing.assert_close(grid[[0, -1]], ends, rtol=0, atol=0)


# Timesteps, levels, weighting -------------------------------------------------------------------------------------


@pytest.mark.each("timesteps")
@pytest.mark.parametrize("num_steps", [1, 7, 100, 1_000, 100_000])
def test_curriculum_is_pure_and_never_goes_back(component, num_steps):
    steps = sorted({round(fraction / 200 * (num_steps - 1)) for fraction in range(201)})
    stages = [component.stage(step, num_steps) for step in steps]
    assert [component.stage(step, num_steps) for step in reversed(steps)][::-1] == stages
    for name in stages[0]:
        assert [stage[name] for stage in stages] == sorted(stage[name] for stage in stages)


@pytest.mark.each("timesteps")
@pytest.mark.parametrize("process", members("process"))
@pytest.mark.parametrize("level", ["lognormal", "uniform"])
@pytest.mark.parametrize("step", [0, 40, 99])
def test_levels_of_a_pair_are_ordered_and_inside_the_process_for_every_uniform_number(component, process, level, step):
    process, levels = process(), registries["levels"][level]()
    uniforms = torch.cat([torch.linspace(0, 1, 1_001)[:-1], torch.tensor([1e-30, 1 - 2**-24])])
    lower, upper = component.pair(uniforms, process, levels, step, 100)
    assert lower.shape == upper.shape == uniforms.shape
    assert lower.dtype == upper.dtype == torch.float32
    assert (lower < upper).all()
    assert lower.min().item() >= torch.tensor(process.sigma_min).item()
    assert upper.max().item() <= torch.tensor(process.sigma_max).item()
    assert (upper.sort().values == upper[uniforms.argsort()]).all()


@pytest.mark.each("timesteps")
def test_pairs_come_closer_as_training_goes_on_or_stay(component):
    uniforms = torch.linspace(0, 1, 101)[:-1]
    gaps = []
    for step in (0, 50, 99):
        lower, upper = component.pair(uniforms, VarianceExploding(), Lognormal(), step, 100)
        gaps.append((upper - lower).mean())
    assert gaps[0] >= gaps[1] >= gaps[2] > 0


@pytest.mark.each("levels")
@pytest.mark.parametrize("process", members("process"))
@pytest.mark.parametrize("num_levels", [2, 11, 1281])
def test_level_probabilities_sum_to_one(component, process, num_levels):
    probabilities = component.probabilities(process().grid(num_levels))
    assert probabilities.shape == (num_levels - 1,)
    assert (probabilities > 0).all()
    torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.each("levels")
@pytest.mark.parametrize("process", members("process"))
def test_continuous_levels_fall_into_the_intervals_of_a_grid_with_their_probabilities(component, process):
    process = process()
    grid = process.grid(12)
    num = 200_000
    sigma = component.quantile((torch.arange(num, dtype=torch.float64) + 0.5) / num, process)
    counts = torch.histogram(sigma.float(), grid).hist / num
    torch.testing.assert_close(counts.double(), component.probabilities(grid), rtol=0, atol=2e-5)


@pytest.mark.each("weighting")
def test_weights_are_positive_and_one_per_example(component):
    grid = VarianceExploding().grid(321)
    weight = component.weight(grid[:-1], grid[1:])
    assert weight.shape == (320,)
    assert (weight > 0).all()
    assert weight.isfinite().all()


# Sampler ----------------------------------------------------------------------------------------------------------


class Counted(ExactConsistency):
    """An exact consistency function that counts its calls."""

    calls = 0

    def jump(self, noisy, sigma, sigma_to, dropout_seed=None):
        self.calls += 1
        return super().jump(noisy, sigma, sigma_to, dropout_seed)


@pytest.mark.each("sampler")
@pytest.mark.parametrize("process", members("process"))
@pytest.mark.usefixtures("unchanged_global_rng")
def test_sampler_evaluates_the_function_as_often_as_it_says(component, process, rng):
    function = Counted(process(), torch.zeros(2), 0.5)
    stages = torch.randn(9, 4, 2, generator=rng)
    output = component(function, lambda stage: stages[stage])
    assert function.calls == component.num_evaluations
    assert output.shape == (4, 2)
    assert output.isfinite().all()


@pytest.mark.each("sampler")
def test_samples_do_not_depend_on_the_batch_they_are_drawn_in(component, rng):
    function = ExactConsistency(VarianceExploding(), torch.tensor([0.2, -0.1]), 0.5)
    stages = torch.randn(9, 6, 2, generator=rng)
    together = component(function, lambda stage: stages[stage])
    alone = [component(function, lambda stage, row=row: stages[stage, row : row + 1]) for row in range(6)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=0)


# Objective --------------------------------------------------------------------------------------------------------


def parts_of(objective, coupling):
    """A recipe on the process that the objective is made for, and its models with weights of their own."""
    process = registries["process"][objective.needs_process or "ve"]()
    recipe = Recipe(
        process=process,
        timesteps=Fixed(),
        levels=Lognormal(),
        weighting=InverseGap(),
        coupling=coupling,
        distance=PseudoHuber(),
    )
    networks = [initialize(MLP(width=16), (2,), seed, objective.num_conditions) for seed in range(3)]
    networks[2].requires_grad_(False)  # as in a training: an objective may send a gradient through the target
    online, ema, target = (objective.function(network, process) for network in networks)
    teacher = initialize(MLP(width=16), (2,), 3).requires_grad_(False)
    with seeded(4):
        companion = objective.companion((2,))
    return recipe, Models(
        online=online, ema=ema, target=target, teacher=ConsistencyFunction(teacher, process), companion=companion
    )


@pytest.mark.each("objective")
@pytest.mark.parametrize("coupling", members("coupling"))
@pytest.mark.usefixtures("unchanged_global_rng")
def test_objective_is_a_finite_number_whose_gradient_reaches_the_online_network_only(component, coupling, rng):
    recipe, models = parts_of(component, coupling())
    data = torch.randn(8, 2, generator=rng)
    draws = draw_step(0, 3, 8, lambda num, stream: torch.randn(num, 2, generator=stream))
    losses = [component(recipe, models, data, draws, 3, 10) for _ in range(2)]
    torch.testing.assert_close(losses[0].loss, losses[1].loss, rtol=0, atol=0)
    assert losses[0].loss.isfinite()
    assert losses[0].forward_units >= 3 * 8
    losses[0].loss.backward()
    trained = [*models.online.network.parameters(), *(models.companion.parameters() if models.companion else ())]
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in trained)
    for function in (models.ema, models.target, models.teacher):
        assert all(weight.grad is None for weight in function.network.parameters())


@pytest.mark.each("objective")
def test_cost_of_an_objective_grows_by_one_forward_per_generated_example(component, rng):
    data = torch.randn(8, 2, generator=rng)
    draws = draw_step(0, 3, 8, lambda num, stream: torch.randn(num, 2, generator=stream))

    def units(coupling):
        recipe, models = parts_of(component, coupling)
        return component(recipe, models, data, draws, 3, 10).forward_units

    for name in registries["coupling"]:
        coupling = registries["coupling"][name]()
        assert units(coupling) - units(Independent()) == coupling.num_generated(8, 0.3)


@pytest.mark.each("objective")
def test_function_of_an_objective_keeps_the_state_at_sigma_min(component, rng):
    _, models = parts_of(component, Independent())
    x, process = torch.randn(5, 2, generator=rng), models.online.process
    kept = models.online(x, torch.full((5,), process.sigma_min))
    torch.testing.assert_close(kept, x, rtol=0, atol=1e-6)
    assert (models.online(x, torch.full((5,), process.sigma_max)) - x).abs().max() > 1e-2
