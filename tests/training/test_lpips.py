"""Trainings with the distance LPIPS, and that nothing begins where its weights cannot be had."""

from __future__ import annotations

import pytest

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError, WeightsError
from gcsearch.science.distances import LPIPS
from gcsearch.training import Trainer
from gcsearch.training.session import run_training
from gcsearch.training.step import Learner

SHORT = {"num_images": 128, "batch_size": 32}
RARELY = {"every_images": 64, "num_samples": 64, "metrics": ["fid"]}


@pytest.fixture
def perceptual(tiny):
    """Makes a tiny experiment with the distance, on small images to be quick."""
    return lambda **distance: tiny(
        distance={"name": "lpips", "size": 16, **distance}, training=SHORT, evaluation=RARELY, network={"width": 16}
    )


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """The folder of the weights, which is not there."""
    monkeypatch.setenv("GCSEARCH_LPIPS", str(tmp_path / "nowhere"))
    return tmp_path / "nowhere"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_runs_and_repeats_itself(perceptual, lpips_weights, digits, precision):
    lpips_weights()
    experiment = perceptual()
    data = experiment.to_dict()
    experiment = Experiment.from_dict(data | {"training": data["training"] | {"precision": precision}})
    runs = [Trainer(experiment, examples=digits).fit() for _ in range(2)]
    assert runs[0].state == "completed"
    assert runs[0].results[-1].metrics["train/loss"] > 0
    assert [result.metrics["eval/fid"] for result in runs[0].results] == [
        result.metrics["eval/fid"] for result in runs[1].results
    ]


def test_experiment_knows_the_distance_and_not_where_its_weights_are(perceptual, lpips_weights, nowhere):
    missing = perceptual()
    lpips_weights()
    assert missing.distance == LPIPS(size=16)
    assert missing.to_dict()["distance"] == {"name": "lpips", "size": 16, "pooling": "average"}
    assert missing.fingerprint == perceptual().fingerprint
    assert missing.fingerprint != perceptual(pooling="max").fingerprint


def test_learner_is_refused_without_weights(perceptual, nowhere):
    with pytest.raises(WeightsError, match=f"^{nowhere}: must hold "):
        Learner(perceptual(), "cpu")


def test_training_without_weights_leaves_nothing_behind(perceptual, nowhere, tmp_path):
    with pytest.raises(WeightsError, match=f"^{nowhere}: must hold "):
        run_training(perceptual(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_points_are_refused(tiny, points):
    with pytest.raises(ConfigError, match="distance does not fit the data 'gaussians_2m2m': distance 'lpips' needs im"):
        tiny(base=points, distance="lpips")


def test_unknown_pooling_is_refused(perceptual):
    with pytest.raises(ConfigError, match=r"distance\.pooling must be one of 'average', 'max', got 'min'\."):
        perceptual(pooling="min")
