"""Editing with a model that was loaded, in Python and by the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.export import LoadedModel, edited, interpolated
from gcsearch.science.networks.base import initialize
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.samplers import OneStep

TINY = {"name": "tiny", "data": "digits", "network": {"name": "mlp", "width": 16}, "evaluation": {"seed": 5}}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    experiment = Experiment.from_dict(TINY)
    network = initialize(experiment.network, experiment.data.event_shape, seed=3)
    return LoadedModel(experiment=experiment, function=ConsistencyFunction(network, experiment.process))


def test_what_is_known_survives_as_bytes_and_a_result_depends_on_its_number_only(model):
    references = model.experiment.data.load().values[:6]
    result = edited(model, references, "inpaint")
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:6, 2:6] = False
    assert torch.equal(result.images[..., outside], references[..., outside])
    assert not torch.equal(result.images, references)
    assert result.num_evaluations == 17
    # One of several hundred is what it is alone, up to the rounding of larger matrix products.
    fewer = edited(model, references[:2], "inpaint").images
    assert (fewer.int() - result.images[:2].int()).abs().max() <= 1
    other = edited(model, references, {"name": "inpaint"}, seed=7, levels=[1.0, 0.5])
    assert other.num_evaluations == 3
    assert not torch.equal(other.images, result.images)
    assert edited(model, references, "stroke", steps=4).num_evaluations == 4


def test_rows_of_an_interpolation_begin_and_end_with_ordinary_samples(model):
    rows = interpolated(model, 20, 8, sampler=OneStep())
    samples = model.sample(6)
    assert len(rows) == 20
    for row in range(2):
        assert (rows[8 * row].int() - samples[2 * row].int()).abs().max() <= 1
        assert (rows[8 * row + 7].int() - samples[2 * row + 1].int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        ("colorize", {}, "edit colorize: must be applied to images of 3 channels"),
        ({"name": "superres", "factor": 5}, {}, "edit superres: factor must divide height 8 and width 8, got 5"),
        ("inpaint", {"steps": 0}, "steps must be at least 1"),
        ("inpaint", {"levels": [100.0]}, "edit inpaint: levels must be decreasing and below 80"),
        ({"name": "denoise", "sigma": 1e-4}, {}, "edit denoise: sigma must be above sigma_min"),
        ("paint", {}, "unknown edit 'paint'. Did you mean 'inpaint'?"),
    ],
)
def test_edits_that_do_not_fit_are_refused(model, rule, settings, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?").replace(".", r"\.")):
        edited(model, model.experiment.data.load().values[:2], rule, **settings)


def test_images_of_another_shape_are_refused(model):
    with pytest.raises(ConfigError, match=r"shape \(1, 8, 8\) that the model draws, got \(1, 4, 4\)"):
        edited(model, torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "inpaint")


def test_the_command_edits_files_with_a_mask(model, tmp_path, monkeypatch):
    from gcsearch.cli import sampling

    monkeypatch.setattr("gcsearch.export.load_model", lambda path: model)
    given = model.experiment.data.load().values[11, 0].numpy()
    Image.fromarray(given).save(tmp_path / "digit.png")
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask.numpy()).save(tmp_path / "mask.png")

    def edit(rule: str, **options):
        plain = dict.fromkeys(("images", "mask", "num", "steps", "levels", "gamma", "seed", "output"))
        sampling.sample_command(Path("model.pt"), edit=rule, **plain | options, as_json=True)

    edit("inpaint", images=tmp_path / "digit.png", mask=tmp_path / "mask.png", output=tmp_path / "out")
    (path,) = (tmp_path / "out").iterdir()
    result = np.asarray(Image.open(path))
    assert np.array_equal(result[:, :4], given[:, :4])
    assert not np.array_equal(result[:, 4:], given[:, 4:])

    edit("superres", num=11, output=tmp_path / "grid.png")
    # Two blocks of three rows of eight, 64 pixels each, with lines between.
    assert Image.open(tmp_path / "grid.png").size == (8 * 65 - 1, 6 * 65 - 1)

    with pytest.raises(ConfigError, match="belongs to --edit inpaint only"):
        edit("superres", mask=tmp_path / "mask.png")
    with pytest.raises(ConfigError, match="is for images to edit"):
        edit("interpolate", mask=tmp_path / "mask.png")
