"""Feature extractors; the digits classifier against torch-fidelity's whole pipeline."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
import torch_fidelity
from torch.utils.data import Dataset

from gcsearch.data.digits import load_labelled
from gcsearch.metrics.classifiers import load_classifier, register_with_torch_fidelity, weights_path
from gcsearch.metrics.features import CoordinatesExtractor, DigitsExtractor, FashionMNISTExtractor, extractors
from gcsearch.metrics.fid import FID
from gcsearch.metrics.inception_score import InceptionScore
from gcsearch.metrics.kid import KID
from gcsearch.metrics.precision_recall import PrecisionRecall
from gcsearch.metrics.reference import ReferenceFeatures, extract

FASHION = Path("/usr/share/datasets/fashion-mnist")


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


@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_shipped_weights_say_how_good_they_are_and_are_small(name):
    with safetensors.safe_open(weights_path(name), framework="pt") as file:
        assert float(file.metadata()["test_accuracy"]) > 0.9
    assert weights_path(name).stat().st_size < 1_000_000


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs the package dataset-fashion-mnist")
def test_shipped_classifier_tells_clothes_apart():
    images = np.frombuffer(gzip.decompress((FASHION / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((FASHION / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    images = torch.from_numpy(images[: 1000 * 784].copy()).view(1000, 1, 28, 28)
    extractor = FashionMNISTExtractor()
    features = extract(extractor.load(), images)
    correct = extractor.classify(features).argmax(dim=1) == torch.from_numpy(labels[:1000].copy())
    assert correct.double().mean() > 0.9
    assert features.var(dim=0).mean() == pytest.approx(1, abs=0.1)


def test_fashion_images_with_their_border_have_the_features_of_those_without(rng):
    small = torch.randint(0, 256, (5, 1, 28, 28), generator=rng, dtype=torch.uint8)
    large = torch.zeros(5, 1, 32, 32, dtype=torch.uint8)
    large[..., 2:30, 2:30] = small
    extractor, function = FashionMNISTExtractor(), FashionMNISTExtractor().load()
    for images in (small, large):
        extractor.accepts(tuple(images.shape[1:]))
    torch.testing.assert_close(function(small), function(large), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"\[1, 28, 28\] or \[1, 32, 32\], got \[3, 32, 32\]"):
        extractor.accepts((3, 32, 32))


def test_logits_come_from_the_features_and_an_extractor_without_classes_has_none():
    images, _ = load_labelled()
    features = extract(DigitsExtractor().load(), images[:50])
    with torch.no_grad():
        expected = load_classifier("digits")(images[:50])
    torch.testing.assert_close(DigitsExtractor().classify(features), expected)
    assert not DigitsExtractor().classify(features).requires_grad
    with pytest.raises(NotImplementedError, match="coordinates"):
        CoordinatesExtractor().classify(torch.zeros(4, 2))


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
    names = [name for name in extractors if name != "inception"]  # whose weights are not shipped
    identities = {name: extractors[name]().identity for name in names}
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
