"""The embedded colour images."""

from __future__ import annotations

import pytest
import torch

from gcsearch.data.photo_patches import PhotoPatches


@pytest.fixture(scope="module")
def patches():
    return PhotoPatches().load().values


def test_number_and_size_are_as_asked():
    assert PhotoPatches(resolution=32, num_images=7).load().values.shape == (7, 3, 32, 32)


def test_fewer_patches_are_the_first_ones(patches):
    torch.testing.assert_close(PhotoPatches(num_images=50).load().values, patches[:50], rtol=0, atol=0)


def test_patches_differ_and_are_in_colour(patches):
    flat = patches.flatten(1).float() / 127.5 - 1
    assert len(flat.unique(dim=0)) == len(flat)
    assert flat.std() == pytest.approx(0.65, abs=0.03)
    assert (patches.float().std(dim=1).mean() > 10).item()  # grey images would have no spread between channels
    assert (flat.std(dim=1) < 0.05).float().mean() < 0.1  # nearly constant ones


def test_both_photographs_are_there_alike(patches):
    """The sky and the roof are brighter than the dark leaves around the flower."""
    temple, flower = patches[::2].float().mean(), patches[1::2].float().mean()
    assert temple > flower + 50


@pytest.mark.parametrize("settings", [{"resolution": 3}, {"resolution": 65}, {"num_images": 1}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        PhotoPatches(**settings)
