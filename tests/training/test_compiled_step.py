"""Compiled steps: two graphs for a whole training, which do what the step does that is not compiled."""

import copy
import dataclasses
import functools
from contextlib import nullcontext

import pytest
import torch
from torch._dynamo.utils import counters

from gcsearch.data.batches import Batches
from gcsearch.errors import ConfigError, TrialDiverged
from gcsearch.science.distances import PseudoHuber
from gcsearch.science.optimizers import Lion, Optimizer
from gcsearch.science.randomness import draw_step
from gcsearch.training import Trainer
from gcsearch.training.distributed import Group, share_of
from gcsearch.training.step import Learner

CPU = torch.device("cpu")
CURRICULUM = {
    "network": {"dropout": 0.1},
    "timesteps": {"name": "exponential", "s0": 4, "s1": 32},
    "coupling": {"name": "generator", "mu": 0.5},
}
SHORT = {"training": {"compile": True, "num_images": 640}, "evaluation": {"every_images": 640}}


@pytest.fixture(autouse=True)
def fresh(plain_functions):
    """Nothing is compiled before, and nothing counted."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def captured(monkeypatch):
    """Graphs are captured as always, and then run as they are: seconds instead of a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


@pytest.fixture
def built(monkeypatch, tmp_path, cpp_compiler):
    """Graphs are compiled to machine code."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def graphs():
    return counters["stats"]["unique_graphs"]


def differences(experiment, examples, steps, tolerance=1e-5, group=None):
    """Compare loss, gradient and cost of compiled and plain steps; returns the losses."""
    training = dataclasses.replace(experiment.training, compile=False)
    plain = Learner(dataclasses.replace(experiment, training=training), CPU, group, may_be_untrained=True)
    compiled = Learner(experiment, CPU, group, may_be_untrained=True)
    batches = Batches(examples, training.batch_size, 0)
    losses = []
    for step in steps:
        draws = draw_step(0, step, training.batch_size, experiment.data.draw_source)
        found = []
        for learner in (plain, compiled):
            own = share_of(learner.group, experiment.coupling, batches[step], draws)
            (loss,), units = learner.differentiate(*own, step)
            modules = [learner.network] if learner.companion is None else [learner.network, learner.companion]
            weights = [weight for module in modules for weight in module.parameters()]
            assert all(weight.grad.stride() == weight.stride() for weight in weights)
            found.append((loss, [weight.grad for weight in weights], units))
        (loss, gradients, units), (other_loss, other_gradients, other_units) = found
        assert units == other_units
        torch.testing.assert_close(other_loss, loss, rtol=tolerance, atol=0)
        for gradient, other in zip(gradients, other_gradients, strict=True):
            assert (other - gradient).norm() <= tolerance * gradient.norm()
        losses.append(loss)
        # The networks move on together, so that the graph meets weights that have changed.
        plain.step(batches[step], draws, step)
        for name in ("network", "average", "predictor_average", "target", "companion"):
            if getattr(plain, name) is not None:
                getattr(compiled, name).load_state_dict(getattr(plain, name).state_dict())
    return losses


@pytest.mark.usefixtures("captured")
def test_new_levels_seeds_and_decays_compile_nothing_again(tiny, digits):
    trainer = Trainer(experiment := tiny(**CURRICULUM, **SHORT), examples=digits)
    stages = set()
    while trainer.step < experiment.training.num_steps:
        stages.add(experiment.timesteps.levels_at(trainer.step, experiment.training.num_steps))
        trainer.train_step()
    assert len(stages) > 2
    trainer.evaluate()  # other batch sizes
    assert graphs() == 2  # coupling, teacher, student and the backward pass; norm, optimizer and average
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.usefixtures("captured")
def test_a_growing_share_of_generated_end_points_is_compiled_for_any_size_once(tiny, digits):
    trainer = Trainer(experiment := tiny(coupling={"mu": 0.1, "mu_end": 0.9}, **SHORT), examples=digits)
    for _ in range(experiment.training.num_steps):
        trainer.train_step()
    assert graphs() == 2
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.usefixtures("captured")
def test_a_window_of_generated_end_points_has_one_graph_inside_and_one_outside(tiny, digits):
    trainer = Trainer(experiment := tiny(coupling={"start": 0.2, "end": 0.7}, **SHORT), examples=digits)
    for _ in range(experiment.training.num_steps):
        trainer.train_step()
    assert graphs() == 2 + 1


@pytest.mark.slow
@pytest.mark.usefixtures("captured")
def test_graph_has_loss_gradient_and_dropout_of_the_plain_step(tiny, digits):
    wet, dry = (tiny(**(CURRICULUM | {"network": {"dropout": dropout}}), **SHORT) for dropout in (0.5, 0.0))
    losses = [differences(experiment, digits, range(0, 20, 5)) for experiment in (wet, dry)]
    assert graphs() == 2
    assert all(first != second for first, second in zip(*losses, strict=True))  # dropout makes another loss


@pytest.mark.usefixtures("captured")
def test_a_component_that_cannot_be_in_a_graph_is_an_error_that_says_where(tiny, digits, monkeypatch):
    def distance(self, first, second):
        torch._dynamo.graph_break()
        return (first - second).flatten(1).square().sum(1)

    monkeypatch.setattr(PseudoHuber, "__call__", distance)
    told = r"^training\.compile must be false with this recipe, got true: .* at .*test_compiled_step\.py:\d+\)\.$"
    with pytest.raises(ConfigError, match=told):
        Trainer(tiny(**SHORT), examples=digits).train_step()


def test_an_objective_of_several_gradients_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"training\.compile must be false for the objective 'ctm', whose loss is no"):
        tiny(objective="ctm", **SHORT)


RECIPES = {
    "ect": {"objective": "ect", "timesteps": "ect"},
    "original": {"objective": "original_consistency", "timesteps": {"name": "square_root", "s0": 2, "s1": 20}},
    "distillation": {"objective": "consistency_distillation"},
    "denoising": {"objective": "denoising"},
    "scm": {"objective": "scm", "process": {"name": "trig"}},
    "facm": {"objective": {"name": "facm", "preconditioned": True}},
    "images": {"network": {"name": "unet", "channels": 8, "num_blocks": 1, "dropout": 0.2}},
    "transport": {"coupling": "ot"},
    "base of transport": {"coupling": {"name": "generator", "base": "ot", "clamp": True, "predictor": "online"}},
    "average": {"coupling": {"name": "generator", "predictor_ema": [{"name": "power_warmup", "period": 3}]}},
    "bridge": {"process": {"name": "bridge", "sigma_min": 0.002, "sigma_max": 0.99}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("captured")
def test_every_objective_and_coupling_is_one_graph(tiny, digits, name):
    differences(tiny(**RECIPES[name], **SHORT), digits, range(0, 20, 3))
    assert graphs() == 1
    assert not counters["graph_break"]


def alike(experiment):
    """Learners of the same training, plain and compiled."""
    training = dataclasses.replace(experiment.training, compile=False)
    return Learner(dataclasses.replace(experiment, training=training), CPU), Learner(experiment, CPU)


def parts_of(learner):
    """All that moves."""
    names = ("network", "average", "predictor_average", "target", "companion", "optimizer", "companion_optimizer")
    return {name: part for name in names if (part := getattr(learner, name)) is not None}


def states(learner):
    return copy.deepcopy({name: part.state_dict() for name, part in parts_of(learner).items()})


MOVES = {
    **{name: {"optimizer": {"name": name, "weight_decay": 0.1}} for name in ("lion", "adam", "adamw", "radam")},
    "all averages": {
        "objective": {"name": "original_consistency", "mu": 0.9, "s0": 4},
        "timesteps": {"name": "square_root", "s0": 4, "s1": 20},
        "coupling": {"name": "generator", "predictor_ema": [{"name": "power_warmup", "period": 3}]},
    },
    "companion": {"objective": "scm", "process": {"name": "trig"}, "optimizer": "radam"},
}


def check_moves(experiment, examples):
    """Compare plain and compiled steps; half-way, each goes on from the other's state."""
    plain, compiled = learners = alike(experiment)
    batches = Batches(examples, 32, 0)
    for step in range(16):
        if step == 8:
            first, second = states(plain), states(compiled)
            for learner, stored in zip(learners, (second, first), strict=True):
                for key, part in parts_of(learner).items():
                    part.load_state_dict(stored[key])
        draws = draw_step(0, step, 32, plain.experiment.data.draw_source)
        expected, report = (learner.step(batches[step], draws, step) for learner in learners)
        torch.testing.assert_close(report.grad_norm, expected.grad_norm, rtol=1e-4, atol=0)
        torch.testing.assert_close(states(compiled), states(plain), rtol=1e-4, atol=1e-6)
    assert graphs() == 2
    assert not counters["graph_break"]


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.usefixtures("captured")
def test_compiled_steps_move_weights_averages_and_states_as_plain_ones_and_share_checkpoints(tiny, digits, name):
    check_moves(tiny(**MOVES[name], **SHORT), digits)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "companion"])
@pytest.mark.usefixtures("built")
def test_machine_code_moves_everything_as_plain_steps_do(tiny, digits, name):
    check_moves(tiny(**MOVES[name], **SHORT), digits)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.usefixtures("captured")
def test_a_compiled_step_that_is_not_finite_leaves_all_as_it_was(tiny, digits, waits):
    learner = Learner(tiny(**MOVES["companion"], **SHORT), CPU)
    learner.waits = waits
    batches = Batches(digits, 32, 0)

    def take(step, factor=1.0):
        learner.step(batches[step] * factor, draw_step(0, step, 32, learner.experiment.data.draw_source), step)

    for step in range(3):
        take(step)
    before = states(learner)
    expected = (
        pytest.raises(TrialDiverged, match=r"^step 4: loss is nan and gradient norm nan") if waits else nullcontext()
    )
    with expected:
        take(3, float("nan"))
    if not waits:
        take(4)  # before anyone has looked
        with pytest.raises(TrialDiverged, match=r"^step 4: loss is nan and gradient norm nan"):
            learner.guard.check()
    torch.testing.assert_close(states(learner), before, rtol=0, atol=0)


def test_an_optimizer_without_moves_for_a_graph_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(Lion, "moved", Optimizer.moved)
    with pytest.raises(ConfigError, match=r"training\.compile must be false for the optimizer 'lion', which has no"):
        tiny(**SHORT)


class Second(Group):
    """The second of three processes, as long as nobody waits for the others."""

    rank, size = 1, 3


@pytest.mark.slow
@pytest.mark.usefixtures("captured")
def test_share_of_a_batch_is_one_graph_with_its_rows_dropout(tiny, digits):
    training = SHORT["training"] | {"batch_size": 33}
    differences(tiny(**CURRICULUM, **(SHORT | {"training": training})), digits, range(0, 20, 5), group=Second())
    assert graphs() == 1


@pytest.mark.slow
@pytest.mark.usefixtures("captured")
def test_perceptual_distance_is_in_the_graph(tiny, digits, lpips_weights):
    lpips_weights()
    differences(tiny(distance={"name": "lpips", "size": 16}, **SHORT), digits, range(2), tolerance=1e-4)
    assert graphs() == 1


@pytest.mark.slow
@pytest.mark.usefixtures("captured")
def test_trainings_of_one_process_do_not_use_up_each_others_graphs(tiny, digits):
    for seed in range(12):  # PyTorch gives up after eight graphs of one function
        trainer = Trainer(tiny(seed=seed, **SHORT), examples=digits)
        trainer.train_step()
    assert graphs() == 12


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("built")
def test_machine_code_has_loss_and_gradient_of_the_plain_step(tiny, digits, precision):
    experiment = tiny(**CURRICULUM, **(SHORT | {"training": SHORT["training"] | {"precision": precision}}))
    differences(experiment, digits, range(0, 20, 3), tolerance=1e-5 if precision == "fp32" else 2e-2)
    assert graphs() == 1


@pytest.mark.slow
@pytest.mark.usefixtures("built")
def test_a_compiled_training_that_was_interrupted_is_the_same_bits(tiny, digits, tmp_path):
    experiment = tiny(**CURRICULUM, training={"compile": True, "num_images": 1_000})
    whole = Trainer(experiment, examples=digits, directory=tmp_path / "whole")
    whole.fit()
    steps = iter(range(100))
    part = Trainer(experiment, examples=digits, directory=tmp_path / "parts", should_stop=lambda: next(steps) == 18)
    assert part.fit().state == "stopped"
    rest = Trainer(experiment, examples=digits, directory=tmp_path / "parts")
    assert rest.fit().state == "completed"
    for first, second in ((whole.learner.network, rest.learner.network), (whole.learner.average, rest.learner.average)):
        torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)
