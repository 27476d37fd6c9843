"""The evaluation protocol: common latents, identities, what counts as collapse."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from gcsearch.errors import ScoreError
from gcsearch.metrics.evaluate import COLLAPSE_SHARE, Evaluator
from gcsearch.metrics.features import CoordinatesExtractor, DigitsExtractor
from gcsearch.metrics.fid import FID
from gcsearch.metrics.identity import ScoreIdentity, check_comparable
from gcsearch.metrics.kid import KID
from gcsearch.metrics.reference import reference_features
from gcsearch.science.oracles import ExactConsistency
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import VarianceExploding
from gcsearch.science.randomness import evaluation_latents
from gcsearch.science.samplers import Multistep, OneStep

MEAN = torch.tensor([0.3, -0.2])


def points_source(num, generator):
    return torch.randn(num, 2, generator=generator, device=generator.device)


def image_source(num, generator):
    return torch.randn(num, 1, 8, 8, generator=generator, device=generator.device)


def points_function(mean=MEAN, std=0.5):
    return ExactConsistency(VarianceExploding(), mean, std)


def image_function(std=0.5):
    return ExactConsistency(VarianceExploding(), torch.zeros(1, 8, 8), std)


@pytest.fixture
def points_evaluator(rng):
    points = MEAN + 0.5 * torch.randn(4000, 2, generator=rng)
    return Evaluator(
        metrics=(FID(), KID()),
        extractor=CoordinatesExtractor(),
        sampler=OneStep(),
        num_samples=1000,
        seed=7,
        source=points_source,
        reference=reference_features(CoordinatesExtractor(), points, "ab" * 32),
        reference_name="gaussian",
        is_image=False,
    )


@pytest.fixture
def image_evaluator(rng):
    images = torch.randint(0, 256, (100, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return Evaluator(
        metrics=(FID(),),
        extractor=DigitsExtractor(),
        sampler=OneStep(),
        num_samples=150,
        seed=7,
        source=image_source,
        reference=reference_features(DigitsExtractor(), images, "cd" * 32),
        reference_name="noise",
        is_image=True,
    )


class Broken(ConsistencyFunction):
    """A consistency function whose output is wrong in one element of one sample."""

    def __init__(self, value):
        super().__init__(nn.Identity(), VarianceExploding())
        self.value = value

    def __call__(self, noisy, sigma, dropout_seed=None):
        output = torch.tanh(noisy)
        output[3].view(-1)[1] = self.value
        return output


class Constant(nn.Module):
    """A network that ignores its input; the skip connection leaves a trace of it."""

    def forward(self, x, conditioning, dropout=None):
        del conditioning, dropout
        return torch.ones_like(x)


@pytest.mark.usefixtures("unchanged_global_rng")
def test_exact_map_of_the_data_scores_nearly_zero_and_a_wrong_one_does_not(points_evaluator):
    right = points_evaluator.scores(points_function())
    wrong = points_evaluator.scores(points_function(mean=MEAN + 0.5))
    assert tuple(right) == ("fid", "fid_debiased", "kid")
    assert all(type(value) is float for value in right.values())
    assert right["fid"] < 0.01
    assert wrong["fid"] == pytest.approx(2 * 0.5**2, rel=0.1)
    assert abs(right["kid"]) < 0.05 < wrong["kid"]


def test_samples_are_the_map_of_the_common_latents(points_evaluator):
    samples = points_evaluator.generate(points_function(), 70)
    latents = evaluation_latents(7, 0, 70, points_source)
    expected = OneStep()(points_function(), lambda stage: latents)
    assert samples.shape == (70, 2)
    torch.testing.assert_close(samples, expected, rtol=0, atol=0)


def test_every_step_of_a_sampler_has_noise_of_its_own(points_evaluator):
    evaluator = dataclasses.replace(points_evaluator, sampler=Multistep(levels=(5.0, 1.0), clip=False))
    stages = [evaluation_latents(7, 0, 70, points_source, stage) for stage in range(3)]
    assert (stages[0] != stages[1]).all()
    expected = evaluator.sampler(points_function(), lambda stage: stages[stage])
    torch.testing.assert_close(evaluator.generate(points_function(), 70), expected, rtol=0, atol=0)


@pytest.mark.parametrize("sampler", [OneStep(), Multistep()])
@pytest.mark.parametrize("batch_size", [1, 63, 64, 100, 1000])
def test_samples_do_not_depend_on_the_batch_size(sampler, batch_size, points_evaluator):
    evaluator = dataclasses.replace(points_evaluator, sampler=sampler, num_samples=150)
    other = dataclasses.replace(evaluator, batch_size=batch_size)
    expected = evaluator.generate(points_function())
    torch.testing.assert_close(other.generate(points_function()), expected, rtol=0, atol=0)


def test_latents_of_the_next_piece_are_drawn_while_the_device_works_on_this_one(image_evaluator):
    events = []

    def told(name, function):
        return lambda *arguments: (events.append(name), function(*arguments))[1]

    draws = dataclasses.replace(
        image_evaluator.draws, source=told("latents", image_source), sampler=told("network", OneStep()), batch_size=64
    )
    vars(draws)["features"] = told("features", draws.features)
    shard = draws.shard(image_function(), 0, 192)
    assert events == ["latents", "network", "features", "latents", "network", "features", "latents", *events[1:3]]
    expected = image_evaluator.evaluate(image_function())
    torch.testing.assert_close(shard.samples[:150], expected.samples, rtol=0, atol=0)
    torch.testing.assert_close(shard.features[:150], expected.features)


def test_fewer_samples_are_the_first_of_more(image_evaluator):
    samples = image_evaluator.generate(image_function())
    assert (samples.shape, samples.dtype) == ((150, 1, 8, 8), torch.uint8)
    torch.testing.assert_close(image_evaluator.generate(image_function(), 64), samples[:64], rtol=0, atol=0)


def test_samples_depend_on_the_seed(points_evaluator):
    other = dataclasses.replace(points_evaluator, seed=8)
    assert (other.generate(points_function(), 10) != points_evaluator.generate(points_function(), 10)).all()


def test_images_are_clipped_and_rounded(image_evaluator):
    samples = image_evaluator.generate(image_function(std=2.0), 64)
    latents = evaluation_latents(7, 0, 64, image_source)
    output = OneStep()(image_function(std=2.0), lambda stage: latents)
    assert (output.abs() > 1).any()
    torch.testing.assert_close(samples, ((output.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))


def test_evaluation_agrees_with_its_parts(image_evaluator):
    evaluation = image_evaluator.evaluate(image_function())
    torch.testing.assert_close(evaluation.samples, image_evaluator.generate(image_function()), rtol=0, atol=0)
    assert evaluation.scores == image_evaluator.scores(image_function())
    assert evaluation.scores == image_evaluator.score(evaluation.samples)
    assert evaluation.collapsed is False


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["points_evaluator", "image_evaluator"])
def test_output_that_is_not_finite_scores_nan(kind, value, request):
    evaluator = request.getfixturevalue(kind)
    scores = evaluator.scores(Broken(value))
    assert set(scores) == set(evaluator.identities)
    assert all(math.isnan(score) for score in scores.values())
    assert math.isfinite(evaluator.scores(Broken(0.0))["fid"])


def test_no_gradient_is_recorded_and_training_still_works_afterwards(image_evaluator):
    network = nn.Conv2d(1, 1, 1)
    function = ConsistencyFunction(_Adapter(network), VarianceExploding())
    image_evaluator.scores(function)
    assert function.network.recorded is False
    function(torch.ones(2, 1, 8, 8), torch.ones(2)).sum().backward()
    assert network.weight.grad is not None


class _Adapter(nn.Module):
    """A plain module behind the networks' interface; keeps a tensor from the first call, as networks may."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.kept = None

    def forward(self, x, conditioning, dropout=None):
        del conditioning, dropout
        if self.kept is None:
            self.kept = torch.ones_like(x[:1])
            self.recorded = torch.is_grad_enabled()
        return self.module(x) * self.kept


def test_constant_output_is_collapse(image_evaluator, points_evaluator):
    network = ConsistencyFunction(Constant(), VarianceExploding())
    images = image_evaluator.evaluate(network)
    assert images.collapsed is True
    assert math.isfinite(images.scores["fid"])
    assert points_evaluator.evaluate(network).collapsed is True
    assert points_evaluator.collapsed(torch.full((100, 2), float("nan"))) is True


def test_varied_output_is_no_collapse(image_evaluator, points_evaluator, rng):
    assert image_evaluator.collapsed(image_evaluator.generate(image_function())) is False
    # One faint pixel at random in every image.
    faint = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)
    faint.view(64, 64)[torch.arange(64), torch.arange(64)] = 40
    assert image_evaluator.collapsed(faint) is False
    assert points_evaluator.collapsed(MEAN + 0.05 * torch.randn(50, 2, generator=rng)) is False


def test_rounding_flicker_is_still_collapse(image_evaluator):
    flicker = torch.full((64, 1, 8, 8), 100, dtype=torch.uint8)
    flicker[::2] += 1
    assert image_evaluator.collapsed(flicker) is True


@pytest.mark.parametrize("num_elements", [1, 64, 200])
def test_spread_is_that_of_all_elements(num_elements, rng, points_evaluator):
    samples = torch.randint(0, 256, (90, num_elements), generator=rng, dtype=torch.uint8)
    spread = samples.double().var(dim=0).mean().sqrt()
    for share, collapsed in ((0.99, True), (1.01, False)):
        covariance = torch.eye(2).double() * (spread / COLLAPSE_SHARE / share) ** 2
        reference = dataclasses.replace(points_evaluator.reference, covariance=covariance)
        evaluator = dataclasses.replace(points_evaluator, reference=reference)
        assert evaluator.collapsed(samples) is collapsed


def test_points_are_measured_against_the_spread_of_the_data(rng):
    points = 1e-5 * torch.randn(200, 2, generator=rng)
    evaluator = Evaluator(
        metrics=[FID()],
        extractor=CoordinatesExtractor(),
        sampler=OneStep(),
        num_samples=10,
        seed=0,
        source=points_source,
        reference=reference_features(CoordinatesExtractor(), points, "a"),
        reference_name="tiny",
        is_image=False,
    )
    assert evaluator.collapsed(points) is False
    assert evaluator.collapsed(1e-4 * points) is True


def test_identity_reads_like_the_protocol(points_evaluator):
    identities = points_evaluator.identities
    assert list(identities) == ["fid", "fid_debiased", "kid"]
    assert identities["fid"] == (
        "metric=fid | extractor=coordinates | reference=gaussian@abababababab x4000 | num_samples=1000 | "
        "sampler=one_step | quantisation=none"
    )
    assert identities["kid"].startswith("metric=kid | ")


def test_identity_survives_its_text(points_evaluator, image_evaluator):
    evaluator = dataclasses.replace(points_evaluator, sampler=Multistep(levels=(2.0, 0.5)))
    for text in (*evaluator.identities.values(), *image_evaluator.identities.values()):
        assert str(ScoreIdentity.parse(text)) == text


@pytest.mark.parametrize("text", ["", "fid", "metric=fid | num_samples=ten", "metric=fid | num_samples=10"])
def test_text_that_is_no_identity_is_refused(text):
    with pytest.raises(ScoreError, match="score identity"):
        ScoreIdentity.parse(text)


IDENTITY = ScoreIdentity(
    metric="fid",
    extractor="digits@1a2b3c4d",
    reference="digits@000000000000 x1797",
    num_samples=2000,
    sampler="one_step",
    quantisation="clip_round_uint8",
)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ScoreIdentity)])
def test_scores_that_differ_in_anything_are_not_compared(field):
    other = dataclasses.replace(IDENTITY, **{field: 10_000 if field == "num_samples" else "other"})
    check_comparable([IDENTITY, str(IDENTITY), dataclasses.replace(IDENTITY)])
    with pytest.raises(ScoreError, match=field) as caught:
        check_comparable([IDENTITY, str(other), IDENTITY])
    assert str(getattr(other, field)) in str(caught.value)
    assert str(getattr(IDENTITY, field)) in str(caught.value)
    assert [name for name in vars(IDENTITY) if f"{name} (" in str(caught.value)] == [field]


def test_no_scores_are_comparable():
    check_comparable([])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": (FID(), FID())}, "different keys"),
        ({"num_samples": 3}, "num_samples"),
        ({"batch_size": 0}, "batch_size"),
        ({"reference_name": "a | b"}, "reference_name"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message, points_evaluator):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(points_evaluator, **settings)


@pytest.mark.gpu
def test_scores_do_not_depend_on_the_device(image_evaluator):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    on_gpu = dataclasses.replace(image_evaluator, device="cuda")
    function = ExactConsistency(VarianceExploding(), torch.zeros(1, 8, 8, device="cuda"), 0.5)
    expected = image_evaluator.evaluate(image_function())
    result = on_gpu.evaluate(function)
    assert (result.samples.int() - expected.samples.int()).abs().max() <= 1
    assert result.scores["fid"] == pytest.approx(expected.scores["fid"], rel=1e-3)
    assert on_gpu.score(expected.samples)["fid"] == pytest.approx(expected.scores["fid"], rel=1e-5)
