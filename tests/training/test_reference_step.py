"""The step against the one of the published code, which the benchmark compares with."""

import importlib.util
from pathlib import Path

import pytest
import torch

from gcsearch.data.batches import Batches
from gcsearch.science.randomness import draw_step
from gcsearch.training.step import Learner

PATH = Path(__file__).parents[2] / "benchmarks" / "reference_step.py"
CPU = torch.device("cpu")
NUM_STEPS = 5


@pytest.fixture(scope="module")
def reference():
    found = importlib.util.spec_from_file_location("reference_step", PATH)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def steps(experiment, reference, examples):
    """Learners after steps, and (loss, gradient norm) of each step of both."""
    own, plain = Learner(experiment, CPU), reference.ReferenceLearner(experiment, CPU)
    batches = Batches(examples, experiment.training.batch_size, experiment.seed)
    said = []
    for step in range(NUM_STEPS):
        draws = draw_step(experiment.seed, step, experiment.training.batch_size, experiment.data.draw_source)
        report = own.step(batches[step], draws, step)
        with reference.channels_first():
            other = plain.step(batches[step], draws, step)
        said.append(((report.loss.item(), report.grad_norm.item()), other))
    return own, plain, said


RECIPES = {
    "digits, independent": {"coupling": "independent"},
    "digits, generator": {"coupling": {"name": "generator", "mu": 0.5}},
    "digits, generated only, dropout": {"coupling": {"name": "generator", "mu": 1.0}, "network": {"dropout": 0.2}},
    "digits, exponential": {
        "timesteps": {"name": "exponential", "s0": 4, "s1": 32},
        "training": {"num_images": 160},
        "evaluation": {"every_images": 160},
    },
    "unet": {"network": {"name": "unet", "channels": 8}, "training": {"batch_size": 8}},
}


@pytest.mark.parametrize("sections", RECIPES.values(), ids=RECIPES)
def test_the_step_is_the_published_one(tiny, digits, reference, sections):
    # Adam: Lion moves a weight by the sign of its momentum, and rounding alone decides the sign of 0.
    experiment = tiny(**sections | {"optimizer": {"name": "adam", "lr": 1e-4}})
    own, plain, said = steps(experiment, reference, digits)
    for got, expected in said:
        assert got == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(own.network.state_dict(), plain.network.state_dict(), rtol=0, atol=1e-6)
    torch.testing.assert_close(own.average.state_dict(), plain.average.state_dict(), rtol=0, atol=1e-6)
