"""Original consistency training and easy consistency tuning: what sets them apart from `consistency`."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.registry import registries
from gcsearch.science.couplings import Generator, Independent
from gcsearch.science.distances import PseudoHuber, SquaredL2
from gcsearch.science.objectives import Models, training_pairs
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.science.objectives.consistency_distillation import ConsistencyDistillation
from gcsearch.science.objectives.ect import EasyConsistencyTuning
from gcsearch.science.objectives.original_consistency import OriginalConsistency
from gcsearch.science.oracles import ExactConsistency
from gcsearch.science.process import VarianceExploding
from gcsearch.science.schedules import Continuous, Fixed, SquareRoot
from gcsearch.science.teachers import Trained

DOUBLE = torch.float64
PROCESSES = [registries["process"][name]() for name in registries["process"]]


def loss_and_gradient(objective, parts, models, data, draws):
    network = models.online.network
    network.zero_grad()
    terms = objective(parts, models, data, draws, 3, 10)
    terms.loss.backward()
    return terms.loss.detach(), [weight.grad.clone() for weight in network.parameters()]


# Original consistency training ------------------------------------------------------------------------------------


def test_with_the_current_weights_as_target_it_is_consistency_training(recipe, perceptrons, models_of, draws_for, rng):
    parts = recipe(coupling=Generator())
    online, other = perceptrons()
    models = models_of(parts.process, online, other)
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)
    same = dataclasses.replace(models, target=models.online)
    expected = loss_and_gradient(Consistency(), parts, models, data, draws)
    torch.testing.assert_close(
        loss_and_gradient(OriginalConsistency(), parts, same, data, draws), expected, rtol=0, atol=0
    )
    average = dataclasses.replace(models, target=models.ema)
    assert loss_and_gradient(OriginalConsistency(), parts, average, data, draws)[0] != expected[0]


def test_decay_of_the_target_follows_the_number_of_levels(recipe):
    objective, parts = OriginalConsistency(), recipe(timesteps=SquareRoot())
    # N(k) of CM's CIFAR-10 runs at 0, 10 and 100 % of 800k steps; its code takes exp(s0 ln(mu0) / (N - 1)).
    for step, num_levels in ((0, 2), (80_000, 48), (799_999, 151)):
        assert parts.timesteps.levels_at(step, 800_000) == num_levels
        expected = math.exp(2 * math.log(0.9) / (num_levels - 1))
        assert objective.target_decay(parts, step, 800_000) == pytest.approx(expected, rel=1e-12)
    assert OriginalConsistency(mu=0.95).target_decay(recipe(timesteps=Fixed(num_levels=3)), 0, 1) == pytest.approx(0.95)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda one: one.name)
def test_losses_are_zero_for_the_exact_map_of_one_point(process, recipe, draws_for):
    mean = torch.tensor([0.5, -0.3], dtype=DOUBLE)
    exact = ExactConsistency(process, mean, 0.0)
    data, draws = mean.expand(16, 2), draws_for(16, dtype=DOUBLE)
    models = Models(online=exact, ema=exact, target=exact)
    loss = OriginalConsistency()(recipe(process=process), models, data, draws, 3, 10).loss
    assert float(loss) < 1e-9


def test_a_schedule_without_a_grid_is_refused():
    with pytest.raises(
        ConfigError, match=r"objective 'original_consistency' needs a grid of levels, .* got the timest"
    ):
        Experiment.from_dict(
            {"name": "x", "data": "digits", "objective": "original_consistency", "timesteps": {"name": "ect"}}
        )


# Easy consistency tuning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", [Independent(), Generator()], ids=lambda one: one.name)
def test_where_all_pairs_end_at_the_smallest_level_it_is_denoising(
    coupling, recipe, perceptrons, models_of, draws_for, rng
):
    process = VarianceExploding(sigma_max=5.0)  # where n(t) > q = 1.05, so that r(t) = 0, at every level
    parts = recipe(process=process, timesteps=Continuous(q=1.05, num_stages=1), coupling=coupling, distance=SquaredL2())
    models = models_of(parts.process, *perceptrons())
    data, draws = torch.randn(8, 2, generator=rng), draws_for(8)
    pairs = training_pairs(parts, models, data, draws, 3, 10)
    assert (pairs.sigma_lower == parts.process.sigma_min).all()
    upper = pairs.states(parts.process)[1]
    errors = models.online(upper, pairs.sigma_upper, draws.dropout_seed) - pairs.ends.data
    expected = (errors.square().sum(1) / (pairs.sigma_upper - pairs.sigma_lower)).mean()
    torch.testing.assert_close(EasyConsistencyTuning()(parts, models, data, draws, 3, 10).loss, expected)


def test_above_the_smallest_level_it_is_consistency_training(recipe, perceptrons, models_of, draws_for, rng):
    parts = recipe(timesteps=Continuous(q=256.0, k=0.0, num_stages=1))
    models = models_of(parts.process, *perceptrons())
    data, draws = torch.randn(64, 2, generator=rng), draws_for(64)
    lower = training_pairs(parts, models, data, draws, 3, 10).sigma_lower
    assert (lower > parts.process.sigma_min).all()
    tuned, expected = (
        loss_and_gradient(objective, parts, models, data, draws)
        for objective in (EasyConsistencyTuning(), Consistency())
    )
    torch.testing.assert_close(tuned, expected, rtol=0, atol=0)


def test_loss_is_the_published_formula(recipe, perceptrons, models_of, draws_for, rng):
    """An independent writing of ECT's loss: stage, mapping, weight 1 / (t - r) and norm, with r = 0 as sigma_min."""
    parts = recipe(timesteps=Continuous(q=2.0, num_stages=4), distance=PseudoHuber(c=0.06))
    models = models_of(parts.process, *perceptrons())
    data, draws = torch.randn(32, 2, generator=rng), draws_for(32)
    t = parts.levels.quantile(draws.level_uniforms, parts.process).clamp_min(1.01 * 0.002)
    stage = 1  # step 3 of 10, four stages
    r = torch.relu(t * (1 - 1 / 2.0 ** (stage + 1) * (1 + 8 / (1 + t.exp()))))
    is_denoising = r <= 0.002
    r = r.clamp_min(0.002)
    output = models.online(data + t[:, None] * draws.noise, t, draws.dropout_seed)
    with torch.no_grad():
        target = models.online(data + r[:, None] * draws.noise, r, draws.dropout_seed)
    target[is_denoising] = data[is_denoising]
    assert 0 < is_denoising.sum() < 32
    c = 0.06 * math.sqrt(2)
    expected = ((((output - target).square().sum(1) + c**2).sqrt() - c) / (t - r)).mean()
    torch.testing.assert_close(EasyConsistencyTuning()(parts, models, data, draws, 3, 10).loss, expected)


def test_loss_is_zero_for_the_exact_map_of_one_point(recipe, draws_for):
    process, mean = recipe().process, torch.tensor([0.5, -0.3], dtype=DOUBLE)

    class ToZero(ExactConsistency):
        """The map to level 0, where ECT ends; that of the process ends at sigma_min."""

        def __call__(self, noisy, sigma, dropout_seed=None):
            return self.mean.expand_as(noisy)

    data, draws = mean.expand(64, 2), draws_for(64, dtype=DOUBLE)
    function, parts = ToZero(process, mean, 0.0), recipe(timesteps=Continuous(num_stages=1))
    models = Models(online=function, ema=function)
    assert float(EasyConsistencyTuning()(parts, models, data, draws, 3, 10).loss) < 1e-12


def test_student_starts_with_the_teacher_if_there_is_one():
    assert not EasyConsistencyTuning().starts_from_teacher
    assert EasyConsistencyTuning(teacher=Trained()).starts_from_teacher
    assert ConsistencyDistillation().starts_from_teacher
    assert not ConsistencyDistillation(start="random").starts_from_teacher
    experiment = Experiment.from_dict({"name": "x", "data": "digits", "objective": {"name": "ect", "teacher": None}})
    assert experiment.objective == EasyConsistencyTuning()
    tuned = Experiment.from_dict({"name": "x", "data": "digits", "objective": {"name": "ect", "teacher": "trained"}})
    assert tuned.teacher_stage is not None
