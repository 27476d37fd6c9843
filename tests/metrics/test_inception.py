"""Inception features: where the weights come from, what is refused, and equality with torch-fidelity.

The published weights are not needed: the tests that run the network use random ones of the same format, which prove the
path and not the values of papers.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import urllib.error
import urllib.request
from dataclasses import dataclass

import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset as TorchDataset

import gcsearch.metrics.inception as module
from gcsearch.config import Experiment
from gcsearch.data import Dataset, Examples
from gcsearch.errors import WeightsError
from gcsearch.metrics.fid import FID
from gcsearch.metrics.inception import InceptionExtractor, hub_path
from gcsearch.metrics.inception_score import InceptionScore
from gcsearch.metrics.kid import KID
from gcsearch.metrics.reference import ReferenceFeatures, extract
from gcsearch.training import Trainer


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and no weights anywhere."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(module.VARIABLE, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory):
    """A file like the published one, with random convolutions that keep the size of the signal."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        name = "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"
        patch.setattr(name, lambda *_, **__: None)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        shapes = {key: value.shape for key, value in FeatureExtractorInceptionV3("x", ["2048"]).state_dict().items()}
    stream = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        if len(shape) == 4:
            state[key] = torch.randn(shape, generator=stream) * math.sqrt(2 / shape[1:].numel())
        elif len(shape) == 2:
            state[key] = torch.randn(shape, generator=stream) * 0.2
        elif key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        else:
            is_one = key.endswith(("bn.weight", "running_var"))
            state[key] = torch.ones(shape) if is_one else torch.zeros(shape)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


def colours(num, rng):
    """Smooth random pictures, which differ more than white noise does after 299 x 299 pixels."""
    coarse = torch.randn(num, 3, 4, 4, generator=rng) * 90 + 128
    return torch.nn.functional.interpolate(coarse, 32, mode="bilinear").clamp(0, 255).to(torch.uint8)


class Images(TorchDataset):
    """What torch-fidelity takes: a data set of bare uint8 tensors."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


# Where the weights come from --------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["prepare", "load", "identity"])
def test_without_weights_one_line_says_what_to_put_where(action, offline):
    extractor = InceptionExtractor()
    with pytest.raises(WeightsError) as caught:
        extractor.identity if action == "identity" else getattr(extractor, action)()
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    wanted = (module.FILE_NAME, "95,628,359 bytes", module.SHA256, str(hub_path()), "GCSEARCH_INCEPTION=PATH")
    assert all(part in text for part in (*wanted, "--inception-weights", "no network in tests"))
    assert str(offline) in str(hub_path())
    assert not hub_path().exists()
    assert not list(offline.rglob("*.tmp"))


@pytest.mark.parametrize("way", ["field", "variable"])
def test_a_named_file_that_is_missing_is_an_error_and_nothing_is_downloaded(way, offline, monkeypatch):
    missing = str(offline / "nowhere.pth")
    if way == "variable":
        monkeypatch.setenv(module.VARIABLE, missing)
    extractor = InceptionExtractor(weights=missing if way == "field" else "")
    with pytest.raises(WeightsError, match=r"there is no file .*nowhere\.pth") as caught:
        extractor.prepare()
    assert str(caught.value).startswith("--inception-weights" if way == "field" else module.VARIABLE)


def test_download_goes_where_torch_fidelity_looks_and_its_hash_is_checked(offline, monkeypatch):
    class Answer:
        def __init__(self, content):
            self.content = content

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, *_):
            content, self.content = self.content, b""
            return content

    content, urls = b"weights", []
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: urls.append(url) or Answer(content))
    with pytest.raises(WeightsError, match=f"must have the sha256 {module.SHA256}"):
        _ = InceptionExtractor().identity
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(content).hexdigest())
    assert InceptionExtractor().identity == f"inception@{hashlib.sha256(content).hexdigest()[:12]}"
    assert hub_path().read_bytes() == content
    assert len(urls) == 1
    assert urls[0].endswith(module.FILE_NAME)


def test_identity_follows_the_content_of_the_file(offline):
    path = offline / "w.pth"
    path.write_bytes(b"one")
    first = InceptionExtractor(weights=str(path)).identity
    path.write_bytes(b"other")
    assert first == f"inception@{hashlib.sha256(b'one').hexdigest()[:12]}"
    assert InceptionExtractor(weights=str(path)).identity == f"inception@{hashlib.sha256(b'other').hexdigest()[:12]}"


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        pickle.dumps({"fc.weight": Evil()}, protocol=2),
    ],
)
def test_a_file_that_is_no_weights_is_refused_and_runs_no_code(content, offline, capsys):
    path = offline / "w.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.pth: is not a readable file of weights"):
        InceptionExtractor(weights=str(path)).prepare()
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("state", [{}, [1, 2], {"fc.weight": torch.zeros(1008, 2048)}])
def test_a_file_of_other_tensors_is_refused(state, offline):
    path = offline / "w.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match="must be the state of torch-fidelity's Inception v3"):
        InceptionExtractor(weights=str(path)).prepare()


# What it accepts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 32, 32), (2,), (4, 32, 32)])
def test_only_colour_images_are_accepted(shape):
    InceptionExtractor().accepts((3, 64, 64))
    with pytest.raises(ValueError, match=r"RGB images of shape \[3, H, W\]"):
        InceptionExtractor().accepts(shape)


@dataclass(frozen=True, kw_only=True)
class Colours(Dataset):
    """A handful of small colour images."""

    kind, name, default_extractor = "data", "colours", "inception"

    @property
    def event_shape(self):
        return (3, 8, 8)

    def load(self):
        return Examples(torch.arange(16 * 192).reshape(16, 3, 8, 8).to(torch.uint8))


def test_missing_weights_stop_a_training_before_it_starts(offline):
    experiment = Experiment(name="colours", data=Colours())
    with pytest.raises(WeightsError, match=module.FILE_NAME):
        Trainer(experiment, directory=offline / "run")
    assert not (offline / "run").exists()


# The network -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_features_and_scores_are_those_of_torch_fidelity(random_weights, rng, offline):
    extractor = InceptionExtractor(weights=str(random_weights))
    generated, real = colours(14, rng), colours(16, rng)
    before = torch.get_rng_state()
    function = extractor.load()
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    features, real_features = extract(function, generated), extract(function, real)
    assert (features.shape, features.dtype) == ((14, 2048), torch.float32)

    theirs = torch_fidelity.utils.create_feature_extractor(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        cuda=False,
        feature_extractor_weights_path=str(random_weights),
    )
    expected, logits = theirs(generated[:8])
    torch.testing.assert_close(features[:8], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    torch.testing.assert_close(
        extractor.classify(features[:8]), logits, rtol=1e-3, atol=1e-4 * logits.abs().max().item()
    )

    scores = torch_fidelity.calculate_metrics(
        input1=Images(generated),
        input2=Images(real),
        feature_extractor_weights_path=str(random_weights),
        fid=True,
        kid=True,
        isc=True,
        kid_subset_size=14,
        kid_subsets=50,
        cuda=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    reference = ReferenceFeatures.of(real_features, "0" * 64, extractor)
    ours = {
        key: value
        for metric in (FID(), KID(), InceptionScore())
        for key, value in metric.compute(features, reference).items()
    }
    assert ours["fid"] > 0.01
    assert ours["fid"] == pytest.approx(scores["frechet_inception_distance"], rel=1e-3)
    assert ours["is"] == pytest.approx(scores["inception_score_mean"], rel=1e-3)
    spread = scores["kernel_inception_distance_std"] / math.sqrt(50)
    assert abs(ours["kid"] - scores["kernel_inception_distance_mean"]) < 5 * spread
