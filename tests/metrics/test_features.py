"""Feature extractors; the digits classifier against torch-fidelity's whole pipeline."""

from __future__ import annotations

import sys

import pytest
import safetensors
import torch
import torch_fidelity
from torch.utils.data import Dataset

from gcsearch.data.digits import load_labelled
from gcsearch.metrics.classifiers import load_classifier, register_with_torch_fidelity, weights_path
from gcsearch.metrics.features import CoordinatesExtractor, DigitsExtractor, extractors
from gcsearch.metrics.fid import FID
from gcsearch.metrics.inception_score import InceptionScore
from gcsearch.metrics.kid import KID
from gcsearch.metrics.precision_recall import PrecisionRecall
from gcsearch.metrics.reference import ReferenceFeatures, extract


class Images(Dataset):
    """What torch-fidelity takes: a data set of bare uint8 tensors."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def damaged(images, rng):
    noise = 30 * torch.randn(images.shape, generator=rng)
    return (images + noise).clamp(0, 255).round().to(torch.uint8)


def test_shipped_classifier_tells_digits_apart():
    images, labels = load_labelled()
    with torch.no_grad():
        accuracy = (load_classifier("digits")(images).argmax(dim=1) == labels).double().mean()
    assert accuracy > 0.99
    with safetensors.safe_open(weights_path("digits"), framework="pt") as file:
        assert float(file.metadata()["test_accuracy"]) >= 0.99


def test_features_have_about_unit_variance():
    images, _ = load_labelled()
    features = extract(DigitsExtractor().load(), images)
    assert (features.dtype, features.shape) == (torch.float32, (1797, 64))
    assert features.var(dim=0).mean() == pytest.approx(1, abs=0.05)


def test_a_feature_does_not_depend_on_its_batch():
    images, _ = load_labelled()
    function = DigitsExtractor().load()
    alone = torch.cat([function(images[row : row + 1]) for row in range(10)])
    torch.testing.assert_close(function(images[:200])[:10], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (2,)])
def test_digits_refuse_other_shapes(shape):
    DigitsExtractor().accepts((1, 8, 8))
    with pytest.raises(ValueError, match=r"\[1, 8, 8\].*auto"):
        DigitsExtractor().accepts(shape)


def test_coordinates_are_the_points_themselves(rng):
    points = torch.randn(7, 2, generator=rng, dtype=torch.float64)
    CoordinatesExtractor().accepts((2,))
    torch.testing.assert_close(CoordinatesExtractor().load()(points), points.float(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="points"):
        CoordinatesExtractor().accepts((1, 8, 8))


def test_identities_differ_and_name_the_extractor():
    identities = {name: extractors[name]().identity for name in extractors}
    assert all(identity.startswith(name) for name, identity in identities.items())
    assert len(set(identities.values())) == len(identities)


def test_every_metric_equals_torch_fidelity_on_the_same_images(rng):
    images, _ = load_labelled()
    real, generated = images[:260], damaged(images[300:560], rng)
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(generated),
        input2=Images(real),
        feature_extractor=register_with_torch_fidelity("digits"),
        fid=True,
        kid=True,
        kid_subset_size=260,
        kid_subsets=1,
        isc=True,
        prc=True,
        cuda=False,  # on by default there
        save_cpu_ram=True,  # no worker processes
        cache=False,
        verbose=False,
    )
    function = DigitsExtractor().load()
    features = extract(function, generated)
    reference = ReferenceFeatures.of(extract(function, real), "0" * 64, DigitsExtractor())
    ours = {
        key: value
        for metric in (FID(), InceptionScore(), PrecisionRecall())
        for key, value in metric.compute(features, reference).items()
    }
    assert ours["fid"] > 0.1
    # They sum in float32; their one subset of 260 is all samples.
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    kid = KID().compute(features, reference)["kid"]
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert ours["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert ours["precision"] == pytest.approx(theirs["precision"], abs=1e-7)
    assert ours["recall"] == pytest.approx(theirs["recall"], abs=1e-7)


def test_registering_twice_is_harmless():
    assert register_with_torch_fidelity("digits") == register_with_torch_fidelity("digits")


def test_a_missing_digit_raises_fid_far_above_resampling_noise(rng):
    images, labels = load_labelled()
    features = extract(DigitsExtractor().load(), images)
    reference = ReferenceFeatures.of(features, "0" * 64)

    def resampled(indices):
        chosen = indices[torch.randint(len(indices), (2000,), generator=rng)]
        return FID().compute(features[chosen], reference)["fid"]

    floor = max(resampled(torch.arange(len(images))) for _ in range(10))
    for digit in range(10):
        assert resampled((labels != digit).nonzero()[:, 0]) > 4 * floor


def test_importing_the_metrics_does_not_import_heavy_libraries():
    import subprocess

    code = "import sys, gcsearch.metrics; sys.exit(any(m in sys.modules for m in ('torchvision', 'torch_fidelity')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
