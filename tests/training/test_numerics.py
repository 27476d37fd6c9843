"""Scores of trainings in bf16: those of fp32, up to what another seed changes."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from gcsearch.config import find_experiment, load_experiment
from gcsearch.training import Trainer


@pytest.mark.slow
def test_digits_in_bf16_have_the_scores_of_fp32_within_the_noise_of_seeds(digits):
    recipe = load_experiment(find_experiment("digits"))

    def score(seed, precision):
        training = replace(recipe.training, num_images=8_000, precision=precision)
        evaluation = replace(recipe.evaluation, every_images=8_000, num_samples=1_000)
        experiment = replace(recipe, seed=seed, training=training, evaluation=evaluation)
        return Trainer(experiment, examples=digits).fit().results[-1].metrics["eval/fid"]

    full, half = ([score(seed, precision) for seed in range(3)] for precision in ("fp32", "bf16"))
    differences = [one - other for one, other in zip(half, full, strict=True)]
    assert all(differences)  # bf16 is not fp32
    assert abs(statistics.mean(differences)) < statistics.stdev(full) / 2
