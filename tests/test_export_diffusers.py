"""An export for diffusers: its pipeline draws what we draw, at every level it can ask for; others are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gcsearch
from gcsearch.analysis.results import open_results
from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.export import LoadedModel, export_trial
from gcsearch.export.pipeline import NUM_LEVELS, embedding_layers, write_pipeline
from gcsearch.science.networks.base import initialize
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process.base import karras_grid
from gcsearch.science.randomness import evaluation_latents
from gcsearch.science.samplers import Multistep
from gcsearch.training.session import run_training

from .cli.command import gcsearch as command

DIGITS: dict[str, Any] = {
    "name": "tiny",
    "data": "digits",
    "network": {"name": "unet", "channels": 32, "channel_mult": [1, 2], "num_blocks": 1},
    "process": {"name": "ve", "sigma_data": 0.75},
    "optimizer": {"name": "adam", "lr": 0.003},
    "training": {"num_images": 256, "batch_size": 32},
    "evaluation": {"every_images": 256, "num_samples": 64, "seed": 5, "metrics": ["fid"]},
}

COLOUR: dict[str, Any] = {
    "name": "colour",
    "data": {"name": "photo_patches", "resolution": 16},
    "network": {"name": "unet", "channels": 32, "channel_mult": [1, 2, 3], "num_blocks": 2},
    "process": {"name": "ve", "sigma_min": 0.01, "sigma_max": 50.0, "sigma_data": 0.6, "rho": 5.0},
    "training": {"num_images": 640, "batch_size": 32},
    "evaluation": {"every_images": 640},
}


def model_of(recipe: dict[str, Any]) -> LoadedModel:
    """A model whose every weight matters: a fresh network is nearly the identity, and zeros would hide mistakes."""
    experiment = Experiment.from_dict(recipe)
    network = initialize(experiment.network, experiment.data.event_shape, seed=0)
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            scale = 0.5 if weight.ndim == 1 else weight[0].numel() ** -0.5
            weight.copy_(scale * torch.randn(weight.shape, generator=stream))
    return LoadedModel(experiment=experiment, function=ConsistencyFunction(network, experiment.process))


def pipeline_of(folder: Path) -> Any:
    diffusers = pytest.importorskip("diffusers")
    pipeline = diffusers.ConsistencyModelPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def in_pixels(samples: Tensor) -> Tensor:
    """Samples in [-1, 1] as the pipeline returns them."""
    return (samples / 2 + 0.5).clamp(0, 1)


def test_two_layers_of_diffusers_hold_any_embedding_of_its_levels() -> None:
    levels = karras_grid(NUM_LEVELS, 0.002, 80.0, 7.0).double()
    wanted = torch.randn(NUM_LEVELS, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layers = embedding_layers(levels, wanted, 32)
    time = (250 * levels.log()).float()
    # What UNet2DModel computes: sines and cosines, then linear, SiLU, linear.
    angles = time[:, None] * torch.exp(-torch.log(torch.tensor(1e4)) * torch.arange(16) / 15)
    hidden = torch.cat([angles.sin(), angles.cos()], dim=1) @ layers["time_embedding.linear_1.weight"].T
    hidden = torch.nn.functional.silu(hidden + layers["time_embedding.linear_1.bias"])
    found = hidden @ layers["time_embedding.linear_2.weight"].T + layers["time_embedding.linear_2.bias"]
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=2e-4)


def test_the_network_is_the_same_at_every_level_of_the_scheduler(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    model = model_of(COLOUR)
    write_pipeline(model, tmp_path / "diffusers")
    pipeline = pipeline_of(tmp_path / "diffusers")
    pipeline.scheduler.set_timesteps(timesteps=list(range(NUM_LEVELS - 1, -1, -1)))
    images = torch.randn(NUM_LEVELS, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    sigmas, times = pipeline.scheduler.sigmas[:-1], pipeline.scheduler.timesteps
    with torch.no_grad():
        ours = model.function.network(images, model.experiment.process.preconditioning(sigmas).conditioning)
        theirs = pipeline.unet(images, times).sample
    assert ours.std() > 0.1
    assert (ours[0] - ours[-1]).std() > 0.1
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5 * float(ours.abs().max()))


def test_one_step_from_the_common_latents_is_what_load_draws(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    model = model_of(COLOUR)
    write_pipeline(model, tmp_path / "diffusers")
    latents = evaluation_latents(3, 0, 8, model.experiment.data.draw_source)
    images = pipeline_of(tmp_path / "diffusers")(batch_size=8, latents=latents, output_type="pt").images
    ours = model.sample(8, steps=1, seed=3)
    assert len(ours.unique()) > 100
    torch.testing.assert_close((255 * images).round().to(torch.uint8), ours, rtol=0, atol=1)


@pytest.mark.parametrize("timesteps", [[20, 0], [30, 15, 5, 0]])
def test_several_steps_are_those_of_our_sampler_at_the_same_levels(tmp_path: Path, timesteps: list[int]) -> None:
    pytest.importorskip("diffusers")
    model = model_of(COLOUR)
    write_pipeline(model, tmp_path / "diffusers")
    pipeline = pipeline_of(tmp_path / "diffusers")
    options = {"batch_size": 4, "timesteps": timesteps, "output_type": "pt"}
    images = pipeline(generator=torch.Generator().manual_seed(7), **options).images
    levels = tuple(pipeline.scheduler.sigmas[1:-1].tolist())
    assert len(levels) == len(timesteps) - 1
    stream = torch.Generator().manual_seed(7)
    with torch.no_grad():
        ours = Multistep(levels=levels)(model.function, lambda stage: torch.randn(4, 3, 16, 16, generator=stream))
    assert in_pixels(ours).std() > 0.1
    torch.testing.assert_close(images, in_pixels(ours), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training of a U-Net."""
    directory = tmp_path_factory.mktemp("run")
    run_training(Experiment.from_dict(DIGITS), directory)
    return directory


def test_the_command_writes_a_pipeline_that_draws_the_exports_images(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    done = command("export", str(run), "--diffusers", "--output", str(tmp_path / "export"), "--json")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "export" / "diffusers") in json.loads(done.stdout)["files"]
    assert "ConsistencyModelPipeline" in (tmp_path / "export" / "MODEL_CARD.md").read_text()
    images = pipeline_of(tmp_path / "export" / "diffusers")(
        batch_size=16, generator=torch.Generator().manual_seed(0), output_type="pt"
    ).images
    model = gcsearch.load(tmp_path / "export")
    latents = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model.function(80.0 * latents, torch.full((16,), 80.0))
    torch.testing.assert_close(images, in_pixels(ours), rtol=0, atol=1e-5)

    export_trial(open_results(run), tmp_path / "export")
    assert not (tmp_path / "export" / "diffusers").exists(), "an export without it leaves none of an earlier one"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": {"name": "mlp", "width": 16}}, "network 'mlp', which is not a U-Net"),
        ({"network": {"name": "song_unet", "channels": 16, "channel_mult": [1]}}, "scaled by sqrt(1/2)"),
        ({"network": {"name": "unet", "patch_size": 2}}, "network.patch_size 2"),
        ({"network": {"name": "unet", "channels": 16}}, "network.channels 16"),
        ({"process": "bridge"}, "process 'bridge'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_recipe_without_an_exact_pipeline_is_refused_before_anything_is_written(
    run: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    ledger = (run / "ledger.jsonl").read_text().splitlines()
    other = tmp_path / "run"
    other.mkdir()
    for position, line in enumerate(ledger):
        event = json.loads(line)
        if event["event"] == "trial_started":
            event["config"] |= changes
            ledger[position] = json.dumps(event)
    (other / "ledger.jsonl").write_text("\n".join(ledger) + "\n")
    with pytest.raises(ConfigError, match="must map exactly onto diffusers' ConsistencyModelPipeline, got ") as error:
        export_trial(open_results(other), tmp_path / "export", diffusers=True)
    assert reason in str(error.value)
    assert not (tmp_path / "export").exists()


def test_a_missing_library_is_named_with_the_remedy(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"Run pip install 'gcsearch\[diffusers\]'"):
        export_trial(open_results(run), tmp_path / "export", diffusers=True)
    assert not (tmp_path / "export").exists()
