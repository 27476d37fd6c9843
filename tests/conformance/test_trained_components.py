"""Laws of every coupling, distance, network, average and optimizer. A new one is tested here unasked."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from gcsearch.registry import registries
from gcsearch.science.couplings import Unpaired
from gcsearch.science.dropout import Dropout, seed_tensor
from gcsearch.science.networks.base import initialize
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import VarianceExploding

IMAGE_SHAPE = (1, 8, 8)
"""The one shape that all networks take."""

RANDOM_START = {"mlp"}
"""Networks whose last layer is not near zero at first; the papers' perceptron is initialised like this."""


# Coupling ---------------------------------------------------------------------------------------------------------


def pair(coupling, rng, predictor, progress=0.5, batch_size=6):
    data = torch.randn(batch_size, 3, generator=rng)
    noise = torch.randn(batch_size, 3, generator=rng)
    selection = torch.randperm(batch_size, generator=rng)
    batch = Unpaired(
        data=data,
        noise=coupling.arrange(data, noise),
        chosen=coupling.chosen(selection, progress),
        sigma_lower=torch.linspace(0.1, 2, batch_size),
        process=VarianceExploding(),
        predictors={"ema": predictor, "online": predictor},
    )
    ends = coupling.pair(batch)
    return data, noise, ends


@pytest.mark.each("coupling")
@pytest.mark.parametrize("progress", [0.0, 0.5, 0.999])
@pytest.mark.usefixtures("unchanged_global_rng")
def test_coupling_keeps_shapes_and_inputs_and_is_finite(component, progress, rng):
    before = torch.Generator().set_state(rng.get_state())
    data, noise, ends = pair(component, rng, lambda x, sigma: x / (1 + sigma[:, None]), progress)
    assert (ends.data.shape, ends.noise.shape) == (data.shape, noise.shape)
    assert ends.data.isfinite().all()
    assert ends.noise.isfinite().all()
    torch.testing.assert_close(data, torch.randn(6, 3, generator=before), rtol=0, atol=0)
    torch.testing.assert_close(noise, torch.randn(6, 3, generator=before), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["independent", "generator"])
def test_coupling_keeps_the_noise_as_given(name, rng):
    _, noise, ends = pair(registries["coupling"][name](), rng, lambda x, sigma: torch.zeros_like(x))
    torch.testing.assert_close(ends.noise, noise, rtol=0, atol=0)


@pytest.mark.each("coupling")
def test_no_gradient_flows_through_the_end_points(component, rng):
    scale = torch.ones((), requires_grad=True)
    _, _, ends = pair(component, rng, lambda x, sigma: scale * x)
    assert not ends.data.requires_grad
    assert not ends.noise.requires_grad


@pytest.mark.each("coupling")
@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
@pytest.mark.parametrize("progress", [0.0, 0.5, 0.999])
def test_number_of_generated_examples_is_what_the_predictor_is_asked_for(component, batch_size, progress, rng):
    asked = []

    def predictor(x, sigma):
        asked.append(x.shape[0])
        return x / (1 + sigma[:, None])

    pair(component, rng, predictor, progress, batch_size)
    assert sum(asked) == component.num_generated(batch_size, progress)
    assert component.num_generated(batch_size, progress) <= batch_size


# Distance ---------------------------------------------------------------------------------------------------------


SHAPES = [(2,), (1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 5, 7)]


def skip_if_refused(distance, shape):
    try:
        distance.check(shape)
    except ValueError as error:
        pytest.skip(f"the distance refuses the shape: {error}")


@pytest.mark.each("distance")
def test_distance_takes_images_and_can_be_prepared(component):
    component.check(IMAGE_SHAPE)
    component.check((3, 32, 32))
    component.prepare()


@pytest.mark.each("distance")
@pytest.mark.parametrize("shape", SHAPES)
def test_distance_of_identical_examples_is_exactly_zero(component, shape, rng):
    skip_if_refused(component, shape)
    x = torch.randn(3, *shape, generator=rng)
    torch.testing.assert_close(component(x, x.clone()), torch.zeros(3), rtol=0, atol=0)


@pytest.mark.each("distance")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 100.0])
def test_distance_of_different_examples_is_positive_and_symmetric(component, shape, size, rng):
    skip_if_refused(component, shape)
    first = torch.randn(3, *shape, generator=rng)
    second = first + size * torch.randn(3, *shape, generator=rng)
    distance = component(first, second)
    assert distance.shape == (3,)
    assert (distance > 0).all()
    torch.testing.assert_close(distance, component(second, first), rtol=0, atol=0)


@pytest.mark.each("distance")
def test_distance_of_an_example_ignores_the_others(component, rng):
    first, second = torch.randn(2, 5, *IMAGE_SHAPE, generator=rng)
    alone = torch.cat([component(first[row : row + 1], second[row : row + 1]) for row in range(5)])
    torch.testing.assert_close(component(first, second), alone)


@pytest.mark.each("distance")
def test_distance_has_a_finite_gradient_at_zero(component):
    x = torch.zeros(2, *IMAGE_SHAPE, requires_grad=True)
    component(x, torch.zeros(2, *IMAGE_SHAPE)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


# Network ----------------------------------------------------------------------------------------------------------


def shaken(module: nn.Module, rng: torch.Generator) -> nn.Module:
    """The module with large random weights, so that every part of it matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.2, generator=rng)
    return module


def with_dropout(cls):
    return cls(dropout=0.5) if any(field.name == "dropout" for field in dataclasses.fields(cls)) else None


@pytest.mark.each("network")
def test_network_output_has_the_shape_of_its_input(component, rng):
    component.check(IMAGE_SHAPE)
    module = initialize(component, IMAGE_SHAPE, 0)
    x = torch.randn(3, *IMAGE_SHAPE, generator=rng)
    output = module(x, torch.zeros(3), None)
    assert output.shape == x.shape
    assert output.isfinite().all()


@pytest.mark.each("network")
def test_network_depends_on_input_and_conditioning_of_each_example_alone(component, rng):
    module = shaken(initialize(component, IMAGE_SHAPE, 0), rng)
    x = torch.randn(3, *IMAGE_SHAPE, generator=rng)
    conditioning = torch.tensor([-1.0, 0.0, 1.0])
    output = module(x, conditioning, None)
    alone = torch.cat([module(x[row : row + 1], conditioning[row : row + 1], None) for row in range(3)])
    torch.testing.assert_close(output, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(output, module(x, conditioning.flip(0), None), atol=1e-3)
    assert not torch.allclose(output, module(x.flip(0), conditioning, None), atol=1e-3)


@pytest.mark.each("network")
@pytest.mark.usefixtures("unchanged_global_rng")
def test_network_weights_depend_on_the_seed_only(component):
    first = initialize(component, IMAGE_SHAPE, 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(99)
        again = initialize(component, IMAGE_SHAPE, 1)
    other = initialize(component, IMAGE_SHAPE, 2)
    torch.testing.assert_close(again.state_dict(), first.state_dict(), rtol=0, atol=0)
    assert any((a != b).any() for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.each("network")
def test_network_starts_as_the_skip_connection(component, rng):
    if component.name in RANDOM_START:
        pytest.skip("initialised at random, as in the papers")
    process = VarianceExploding()
    function = ConsistencyFunction(initialize(component, IMAGE_SHAPE, 0), process)
    sigma = torch.tensor([0.01, 0.5, 80.0])
    x = process.add_noise(torch.zeros(3, *IMAGE_SHAPE), torch.randn(3, *IMAGE_SHAPE, generator=rng), sigma)
    skip = process.preconditioning(sigma).skip[:, None, None, None]
    torch.testing.assert_close(function(x, sigma), skip * x, rtol=0, atol=1e-3)


@pytest.mark.each("network")
def test_every_weight_of_a_network_receives_a_gradient(component, rng):
    module = shaken(initialize(component, IMAGE_SHAPE, 0), rng)
    module(torch.randn(2, *IMAGE_SHAPE, generator=rng), torch.ones(2), None).square().sum().backward()
    silent = [name for name, weight in module.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


@pytest.mark.each("network")
@pytest.mark.usefixtures("unchanged_global_rng")
def test_network_is_deterministic_given_the_dropout_seed(component, rng):
    component = with_dropout(type(component)) or component
    module = shaken(initialize(component, IMAGE_SHAPE, 0), rng)
    x = torch.randn(2, *IMAGE_SHAPE, generator=rng)
    outputs = [module(x, torch.ones(2), seed_tensor(5)) for _ in range(2)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)


@pytest.mark.each("network")
def test_dropout_follows_its_seed_and_is_off_without_one(component, rng):
    settings = with_dropout(type(component))
    if settings is None:
        pytest.skip("has no dropout")
    module = shaken(initialize(settings, IMAGE_SHAPE, 0), rng)
    x, conditioning = torch.randn(2, *IMAGE_SHAPE, generator=rng), torch.ones(2)
    dry = copy.deepcopy(initialize(dataclasses.replace(settings, dropout=0.0), IMAGE_SHAPE, 0))
    dry.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x, conditioning, None), dry(x, conditioning, None), rtol=0, atol=0)
    first, second = (module(x, conditioning, seed_tensor(seed)) for seed in (5, 6))
    assert (first != second).any()
    assert (first != module(x, conditioning, None)).any()


@pytest.mark.each("network")
def test_dropout_layers_of_a_network_have_numbers_of_their_own_and_no_weights(component):
    settings = with_dropout(type(component))
    if settings is None:
        pytest.skip("has no dropout")
    wet, dry = (initialize(dataclasses.replace(settings, dropout=rate), IMAGE_SHAPE, 0) for rate in (0.5, 0.0))
    numbers = [module.layer for module in wet.modules() if isinstance(module, Dropout)]
    assert len(numbers) == len(set(numbers)) > 0
    torch.testing.assert_close(wet.state_dict(), dry.state_dict(), rtol=0, atol=0)


# EMA and optimizer ------------------------------------------------------------------------------------------------


@pytest.mark.each("ema")
@pytest.mark.parametrize("batch_size", [1, 128, 4096])
def test_decay_of_the_average_is_in_the_unit_interval(component, batch_size):
    for step in (1, 2, 10, 1_000, 100_000, 10_000_000):
        assert 0 <= component.decay(step, batch_size) < 1


@pytest.mark.each("optimizer")
@pytest.mark.usefixtures("unchanged_global_rng")
def test_optimizer_steps_are_finite_and_descend(component):
    weights = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = dataclasses.replace(component, lr=1e-2).build([weights])
    losses = []
    for _ in range(50):
        loss = weights.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert weights.isfinite().all()
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.each("optimizer")
def test_optimizer_is_built_with_the_settings_of_the_component(component):
    settings = dataclasses.replace(component, lr=0.0123, betas=(0.5, 0.75), weight_decay=0.25)
    (group,) = settings.build([nn.Parameter(torch.zeros(2))]).param_groups
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (0.0123, (0.5, 0.75), 0.25)
