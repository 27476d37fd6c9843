"""What a score must not depend on, and what it must be for clouds of known distance."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from functools import partial

import pytest
import torch

from gcsearch.data.digits import Digits
from gcsearch.errors import WorkerError
from gcsearch.metrics.evaluate import Evaluator, whole_batches
from gcsearch.metrics.features import DigitsExtractor
from gcsearch.metrics.fid import FID, frechet_distance
from gcsearch.metrics.inception_score import InceptionScore
from gcsearch.metrics.kid import KID
from gcsearch.metrics.parallel import evaluate_in_processes, extract_in_processes, run_tasks
from gcsearch.metrics.precision_recall import PrecisionRecall
from gcsearch.metrics.reference import ReferenceFeatures, extract, reference_features
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.unet import UNet
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import VarianceExploding
from gcsearch.science.samplers import Multistep

METRICS = (FID(), KID(), PrecisionRecall(), InceptionScore())


@pytest.fixture
def evaluator(rng):
    images = torch.randint(0, 256, (120, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return Evaluator(
        metrics=METRICS,
        extractor=DigitsExtractor(),
        sampler=Multistep(),
        num_samples=230,
        seed=7,
        source=Digits().draw_source,
        reference=reference_features(DigitsExtractor(), images, "cd" * 32),
        reference_name="noise",
        is_image=True,
        batch_size=50,
    )


@pytest.fixture
def function():
    """A real network, with a last layer that is not near zero."""
    network = initialize(UNet(channels=16, channel_mult=(1,), num_blocks=1), (1, 8, 8), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return ConsistencyFunction(network, VarianceExploding())


def test_order_of_the_images_does_not_matter(evaluator, function, rng):
    result = evaluator.evaluate(function)
    assert result.scores["fid"] > 1
    order = torch.randperm(len(result.features), generator=rng)
    for metric in (FID(), KID(), PrecisionRecall()):
        shuffled = metric.compute(result.features[order], evaluator.reference)
        shuffled.pop("fid_debiased", None)  # its halves are told apart by their places
        assert shuffled == pytest.approx({key: result.scores[key] for key in shuffled}, rel=1e-9)


@pytest.mark.parametrize("batch_size", [23, 64, 1000])
def test_batch_size_does_not_matter(batch_size, evaluator, function):
    # Byte for byte but for values on the edge of rounding, which another order of float sums may tip over.
    expected, other = (
        evaluator.evaluate(function),
        dataclasses.replace(evaluator, batch_size=batch_size).evaluate(function),
    )
    assert (expected.samples != other.samples).double().mean() < 1e-3
    assert other.scores["fid"] == pytest.approx(expected.scores["fid"], rel=1e-4)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
def test_shards_together_are_the_whole_to_the_last_bit(num_shards, evaluator, function):
    expected = evaluator.evaluate(function)
    bounds = evaluator.bounds(num_shards)
    assert len(bounds) == min(num_shards, 5)
    merged = evaluator.merge([evaluator.draws.shard(function, start, stop) for start, stop in bounds])
    torch.testing.assert_close(merged.samples, expected.samples, rtol=0, atol=0)
    torch.testing.assert_close(merged.features, expected.features, rtol=0, atol=0)
    assert merged.scores == expected.scores
    assert merged.collapsed == expected.collapsed


@pytest.mark.parametrize("size", [64, 230])
def test_pieces_of_any_size_give_the_same_samples_up_to_rounding(size, evaluator, function):
    expected = evaluator.evaluate(function)
    result = dataclasses.replace(evaluator, batch_size=size).evaluate(function)
    differences = (result.samples.int() - expected.samples.int()).abs()
    assert differences.max() <= 1
    assert differences.float().mean() < 1e-4
    for key, value in expected.scores.items():
        assert result.scores[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_one_shard_that_is_not_finite_leaves_no_score(evaluator, function):
    shards = [evaluator.draws.shard(function, start, stop) for start, stop in evaluator.bounds(3)]
    broken = [*shards[:2], dataclasses.replace(shards[2], is_finite=False)]
    assert all(math.isnan(value) for value in evaluator.merge(broken).scores.values())


@pytest.mark.parametrize(("num", "size", "parts"), [(10, 4, 2), (2000, 500, 3), (7, 10, 4), (100, 1, 100), (5, 2, 9)])
def test_parts_are_whole_batches_that_cover_everything_once(num, size, parts):
    bounds = whole_batches(num, size, parts)
    assert [index for start, stop in bounds for index in range(start, stop)] == list(range(num))
    assert all(start % size == 0 for start, _ in bounds)
    assert len(bounds) <= parts


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [2, 3])
def test_several_processes_give_the_number_of_one(num_workers, evaluator, function):
    expected = evaluator.evaluate(function)
    result = evaluate_in_processes(evaluator, function, num_workers)
    torch.testing.assert_close(result.samples, expected.samples, rtol=0, atol=0)
    assert result.scores == pytest.approx(expected.scores, rel=1e-6)
    images = torch.cat([expected.samples] * 6)
    features = extract_in_processes(DigitsExtractor(), images, "cpu", num_workers)
    torch.testing.assert_close(features, extract(DigitsExtractor().load(), images), rtol=0, atol=0)


def test_one_worker_means_this_process(evaluator, function):
    assert evaluate_in_processes(evaluator, function, 1).scores == evaluator.scores(function)
    assert run_tasks([os.getpid], 8) == [os.getpid()]


@pytest.mark.slow
def test_a_worker_that_dies_is_a_clear_error_and_not_a_wait(evaluator):
    started = time.monotonic()
    with pytest.raises(WorkerError, match="2 worker processes must finish, but one was ended from outside") as caught:
        run_tasks([os.getpid, partial(os._exit, 9)], 2)
    assert caught.value.exit_code == 1
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_an_error_inside_a_worker_reaches_the_caller():
    with pytest.raises(ValueError, match="could not convert"):
        run_tasks([os.getpid, partial(float, "no number")], 2)


def test_two_clouds_have_the_distance_of_their_gaussians(rng):
    mixing = torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.7, 0.0], [0.3, 0.0, 1.5]])
    shift = torch.tensor([0.6, -0.2, 0.9])
    generated = torch.randn(40_000, 3, generator=rng) @ mixing + shift
    real = torch.randn(40_000, 3, generator=rng)
    zero, eye = torch.zeros(3), torch.eye(3)
    exact = frechet_distance(shift, mixing.T @ mixing, zero, eye)
    assert FID().compute(generated, ReferenceFeatures.of(real, "a"))["fid"] == pytest.approx(exact, rel=0.02)
