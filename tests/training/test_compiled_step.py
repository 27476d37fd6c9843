"""Compiled networks: what is compiled, and how often."""

import functools

import pytest
import torch
from torch._dynamo.utils import counters

from gcsearch.training import Trainer

CURRICULUM = {
    "network": {"dropout": 0.1},
    "timesteps": {"name": "exponential", "s0": 4, "s1": 32},
    "coupling": {"name": "generator", "mu": 0.5},
}


@pytest.fixture
def captured(monkeypatch, plain_functions):
    """Graphs are captured as always, and then run as they are: seconds instead of a minute."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    yield
    torch._dynamo.reset()
    counters.clear()


def graphs():
    return counters["stats"]["unique_graphs"]


@pytest.mark.usefixtures("captured")
def test_new_levels_seeds_and_decays_compile_nothing_again(tiny, digits):
    experiment = tiny(**CURRICULUM, training={"compile": True, "num_images": 640}, evaluation={"every_images": 640})
    trainer = Trainer(experiment, examples=digits)
    stages = set()
    trainer.train_step()
    first = graphs()
    assert first == 3  # teacher, student, predictor
    while trainer.step < experiment.training.num_steps:
        stages.add(experiment.timesteps.levels_at(trainer.step, experiment.training.num_steps))
        trainer.train_step()
    assert len(stages) > 2
    assert graphs() == first
    assert not counters["graph_break"]
    trainer.evaluate()  # other batch sizes
    assert not counters["graph_break"]
    assert graphs() <= first + 2


@pytest.mark.usefixtures("captured")
def test_a_growing_share_of_generated_end_points_is_compiled_for_any_size_once(tiny, digits):
    coupling = {"name": "generator", "mu": 0.1, "mu_end": 0.9}
    experiment = tiny(
        coupling=coupling, training={"compile": True, "num_images": 640}, evaluation={"every_images": 640}
    )
    trainer = Trainer(experiment, examples=digits)
    for _ in range(experiment.training.num_steps):
        trainer.train_step()
    assert graphs() <= 4
