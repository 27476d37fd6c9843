"""LPIPS against torch-fidelity's module and against its formula, and what is said when its weights cannot be had."""

from __future__ import annotations

import pickle
import shutil
import urllib.error
from types import SimpleNamespace

import pytest
import torch
import torch_fidelity.sample_similarity_lpips
import torchvision
from torch import nn

from gcsearch.errors import WeightsError
from gcsearch.science import perceptual
from gcsearch.science.distances import LPIPS
from gcsearch.science.perceptual import load_weights

CPU = torch.device("cpu")
PUBLISHED = (64, 128, 256, 512, 512)


def images(rng, num=2, shape=(3, 32, 32)):
    return 2 * torch.rand(num, *shape, generator=rng) - 1


# The formula ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def library(lpips_files):
    """torch-fidelity's module with the weights of our files; it would download its own."""
    folder = lpips_files(PUBLISHED)
    content = torch.load(folder / perceptual.VGG16.name, weights_only=True)
    with torch.device("meta"):
        features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    trained = {name.removeprefix("features."): value for name, value in content.items() if "features" in name}
    features.load_state_dict(trained, assign=True)
    heads = torch.load(folder / perceptual.HEADS.name, weights_only=True)
    module = torch_fidelity.sample_similarity_lpips
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: heads)
        patch.setattr(module, "torchvision_load_pretrained_vgg16", lambda: SimpleNamespace(features=features))
        return module.SampleSimilarityLPIPS("lpips")


def with_average_pooling(library, patch):
    for part in (library.net.slice2, library.net.slice3, library.net.slice4, library.net.slice5):
        for name, layer in part.named_children():
            if isinstance(layer, nn.MaxPool2d):
                patch.setitem(part._modules, name, nn.AvgPool2d(2))


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("size", [1e-2, 0.3])
def test_distance_and_its_gradient_equal_those_of_the_library(
    library, lpips_files, lpips_weights, pooling, size, rng, monkeypatch
):
    lpips_weights(lpips_files(PUBLISHED))
    if pooling == "average":
        with_average_pooling(library, monkeypatch)
    second = images(rng)
    first = (second + size * torch.randn(second.shape, generator=rng)).requires_grad_()
    ours = LPIPS(size=32, pooling=pooling)(first, second)
    theirs = library((first + 1) * 127.5, (second + 1) * 127.5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    gradients = [torch.autograd.grad(distance.sum(), first)[0] for distance in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * float(gradients[1].abs().max()))
    assert gradients[0].abs().max() > 0


def test_the_two_poolings_are_two_distances(lpips_weights, rng):
    lpips_weights()
    first, second = images(rng), images(rng)
    values = [LPIPS(size=32, pooling=pooling)(first, second) for pooling in ("max", "average")]
    assert ((values[0] / values[1] - 1).abs() > 1e-3).all()


def test_small_images_are_resized_bilinearly_and_others_taken_as_they_are(lpips_weights, rng):
    lpips_weights()
    first, second = images(rng), images(rng)
    larger = [nn.functional.interpolate(x, (48, 48), mode="bilinear", align_corners=False) for x in (first, second)]
    torch.testing.assert_close(LPIPS(size=48)(first, second), LPIPS(size=16)(*larger), rtol=0, atol=0)
    torch.testing.assert_close(LPIPS(size=32)(first, second), LPIPS(size=16)(first, second), rtol=0, atol=0)


def test_default_size_is_that_of_the_papers(lpips_weights, rng):
    lpips_weights()
    first, second = images(rng), images(rng)
    torch.testing.assert_close(LPIPS()(first, second), LPIPS(size=224)(first, second), rtol=0, atol=0)
    assert (LPIPS()(first, second) != LPIPS(size=223)(first, second)).all()


def test_grey_images_are_repeated_to_three_channels(lpips_weights, rng):
    lpips_weights()
    first, second = images(rng, shape=(1, 28, 28)), images(rng, shape=(1, 28, 28))
    repeated = LPIPS(size=32)(first.repeat(1, 3, 1, 1), second.repeat(1, 3, 1, 1))
    torch.testing.assert_close(LPIPS(size=32)(first, second), repeated)


def test_arithmetic_is_single_precision_whatever_the_surroundings(lpips_weights, rng):
    lpips_weights()
    first, second = images(rng), images(rng)
    expected = LPIPS(size=32)(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(LPIPS(size=32)(first, second), expected, rtol=0, atol=0)
    torch.testing.assert_close(LPIPS(size=32)(first.double(), second.double()), expected, rtol=0, atol=0)


def test_gradient_is_finite_where_all_features_are_zero(lpips_weights, rng):
    lpips_weights()
    weights = load_weights(CPU)
    for block, layers in enumerate(perceptual.BLOCKS):
        bias = f"features.{layers[-1]}.bias"
        dead = {bias: weights[bias] - 1e3}
        first = images(rng).requires_grad_()
        distance = perceptual.perceptual_distance(first, images(rng), weights | dead, "average")
        distance.sum().backward()
        assert distance.isfinite().all(), block
        assert first.grad.isfinite().all(), block


def test_no_gradient_is_kept_for_the_weights(lpips_weights):
    lpips_weights()
    assert not any(value.requires_grad for value in load_weights(CPU).values())


@pytest.mark.parametrize("size", [15, 0, -224])
def test_meaningless_size_is_rejected(size):
    with pytest.raises(ValueError, match=f"size must be at least 16, got {size}"):
        LPIPS(size=size)


@pytest.mark.parametrize("shape", [(2,), (8, 8), (2, 8, 8), (4, 32, 32), (1, 3, 8, 8)])
def test_examples_that_are_no_grey_or_colour_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"^distance 'lpips' needs images .* of 1 or 3 channels, the data has shape "):
        LPIPS().check(shape)


# The weights ------------------------------------------------------------------------------------------------------


def refused() -> str:
    with pytest.raises(WeightsError) as caught:
        LPIPS().prepare()
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


@pytest.fixture
def torch_folder(tmp_path, monkeypatch, lpips_weights):
    """torch's download folder, private and not yet there."""
    lpips_weights()
    monkeypatch.delenv(perceptual.ENVIRONMENT)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_only_the_convolutions_and_the_heads_are_kept(lpips_weights):
    lpips_weights()
    weights = load_weights(CPU)
    assert len(weights) == 13 * 2 + 5
    assert load_weights(CPU) is weights


@pytest.mark.parametrize("lost", [("vgg.pth",), ("vgg16-397923af.pth",), ("vgg16-397923af.pth", "vgg.pth")])
def test_missing_files_are_named_with_their_addresses(lpips_weights, tmp_path, monkeypatch, lost):
    for path in lpips_weights().iterdir():
        if path.name not in lost:
            shutil.copy(path, tmp_path)
    monkeypatch.setenv(perceptual.ENVIRONMENT, str(tmp_path))
    said = refused()
    assert said.startswith(f"{tmp_path}: must hold {' and '.join(lost)} for the distance 'lpips', got no such file. ")
    for file in (perceptual.VGG16, perceptual.HEADS):
        assert (file.url in said) == (file.name in lost)
    assert "GCSEARCH_LPIPS" in said


def test_named_folder_that_does_not_exist_is_not_made(lpips_weights, tmp_path, monkeypatch):
    lpips_weights()
    monkeypatch.setenv(perceptual.ENVIRONMENT, str(tmp_path / "nowhere"))
    assert refused().startswith(f"{tmp_path / 'nowhere'}: must hold ")
    assert not (tmp_path / "nowhere").exists()


def test_another_file_under_a_published_name_is_refused(lpips_weights, tmp_path, monkeypatch):
    folder = shutil.copytree(lpips_weights(), tmp_path / "weights")
    heads = torch.load(folder / "vgg.pth", weights_only=True)
    torch.save({name: value + 1 for name, value in heads.items()}, folder / "vgg.pth")
    monkeypatch.setenv(perceptual.ENVIRONMENT, str(folder))
    said = refused()
    assert said.startswith(f"{folder / 'vgg.pth'}: must be the published file, whose sha256 is ")
    assert perceptual.HEADS.url in said


def test_code_in_a_file_is_never_run(lpips_weights, tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    folder = shutil.copytree(lpips_weights(), tmp_path / "weights")
    torch.save({"lin0.model.1.weight": Trap()}, folder / "vgg.pth")
    monkeypatch.setenv(perceptual.ENVIRONMENT, str(folder))
    refused()
    lpips_weights(folder)  # even if its digest were the published one
    with pytest.raises(pickle.UnpicklingError):
        load_weights(CPU)
    assert not (tmp_path / "sprung").exists()


def test_missing_files_are_downloaded_once_and_checked(torch_folder, lpips_files, monkeypatch):
    asked = []

    def download(url, path, hash_prefix):
        asked.append((url, hash_prefix))
        shutil.copy(lpips_files() / path.rpartition("/")[2], path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    LPIPS().prepare()
    LPIPS().prepare()
    assert asked == [(file.url, file.sha256) for file in (perceptual.VGG16, perceptual.HEADS)]
    assert {path.name for path in torch_folder.iterdir()} == {"vgg16-397923af.pth", "vgg.pth"}


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route to host"), RuntimeError('invalid hash value (expected "3979")')]
)
def test_failed_download_says_which_files_to_put_where(torch_folder, monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    said = refused()
    assert said.startswith(f"{torch_folder}: must hold vgg16-397923af.pth and vgg.pth for the distance 'lpips'")
    assert str(error) in said
    assert perceptual.VGG16.url in said
    assert perceptual.HEADS.url in said
    assert "GCSEARCH_LPIPS" in said


def test_what_cannot_be_downloaded_leaves_nothing_behind(torch_folder, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("offline")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    refused()
    assert list(torch_folder.iterdir()) == []
