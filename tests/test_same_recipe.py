"""An A/A test on real trainings: arms of one and the same recipe are hardly ever called different."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gcsearch.config import Experiment
from gcsearch.statistics import Margin, judge, paired
from gcsearch.training import Trainer

RECIPE = {
    "name": "tiny",
    "data": {"name": "gaussians_2m2m", "num_points": 300},
    "network": {"name": "mlp", "width": 16},
    "process": {"name": "ve", "sigma_data": 0.75},
    "optimizer": {"name": "adam", "lr": 1e-2},
    "ema": {"name": "power_warmup", "period": 1},
    "training": {"num_images": 2_000, "batch_size": 32},
    "evaluation": {"every_images": 2_000, "num_samples": 64, "metrics": ["fid"]},
}
NUM_TRAININGS, NUM_LATENTS = 45, 6
NUM_ARMS, NUM_SEEDS = 6, 5
NUM_FAMILIES = 800
MARGIN = Margin(value=0.013)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """FID of every training on every set of latents."""
    table = np.empty((NUM_TRAININGS, NUM_LATENTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        for seed in range(NUM_TRAININGS):
            trainer = Trainer(Experiment.from_dict(RECIPE | {"seed": seed}))
            assert trainer.fit().state == "completed"
            for latents in range(NUM_LATENTS):
                evaluator = dataclasses.replace(trainer.judge.evaluator, seed=latents)
                table[seed, latents] = evaluator.scores(trainer.learner.models.ema)["fid"]
    assert len(np.unique(table)) == table.size
    return table


def unpaired(scores, random):
    """Arms whose trainings have nothing in common but the latents of the evaluation."""
    return random.choice(scores[:, random.integers(NUM_LATENTS)], size=(NUM_ARMS, NUM_SEEDS), replace=False)


def sharing_trainings(scores, random):
    """Arms that have the trainings of their seeds in common, and each its own latents: paired, but not perfectly."""
    trainings = random.choice(NUM_TRAININGS, size=NUM_SEEDS, replace=False)
    return np.stack([random.permutation(scores[training])[:NUM_ARMS] for training in trainings], axis=1)


@pytest.mark.parametrize("arms", [unpaired, sharing_trainings])
@pytest.mark.parametrize("looks", [[NUM_SEEDS], [3, NUM_SEEDS]], ids=str)
def test_families_of_one_recipe_with_a_false_claim_are_at_most_5_in_100(scores, arms, looks):
    """Every family is a table that an ablation of six arms on five seeds might have had; the reference is the first."""
    random = np.random.default_rng(0)
    correlations, false = [], 0
    for _ in range(NUM_FAMILIES):
        reference, *others = arms(scores, random)
        found = judge({str(i): paired(list(arm), list(reference)) for i, arm in enumerate(others)}, MARGIN, looks)
        false += any(one.verdict in ("better", "worse") for one in found.values())
        correlations += [one.comparison.correlation for one in found.values()]
    assert false / NUM_FAMILIES <= 0.05
    assert false  # else the test could not fail
    assert (np.median(correlations) > 0.3) == (arms is sharing_trainings)


def test_a_real_difference_of_these_trainings_is_found(scores):
    """The same trainings, one arm made worse by three standard deviations of a seed: the claims are not just silent."""
    random, seen = np.random.default_rng(1), 0
    deviation = scores.std(axis=0, ddof=1).mean()
    for _ in range(200):
        reference, *others = unpaired(scores, random)
        others[0] = others[0] + 3 * deviation
        found = judge({str(i): paired(list(arm), list(reference)) for i, arm in enumerate(others)}, MARGIN, [NUM_SEEDS])
        seen += found["0"].verdict == "worse"
    assert seen / 200 > 0.5
