"""An export as a folder that diffusers reads: a `ConsistencyModelPipeline` of our weights.

Where the recipe allows it the mapping is exact: the pipeline computes the same function at every level that it can ask
for. Convolutions, norms and affine maps of `unet` are those of `UNet2DModel` under other names. The level is told in
another way: `UNet2DModel` embeds t = 250 ln(sigma) by sines that turn up to a thousand times faster than ours. But its
scheduler asks for finitely many levels only, so its two embedding layers can hold our embedding of each: the first
computes hinges between neighbouring levels, the second adds up what changes at each hinge (`embedding_layers`).
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.export.model import LoadedModel
from gcsearch.science.networks.unet import Block, UNet, UNetModule
from gcsearch.science.process.base import karras_grid
from gcsearch.science.process.variance_exploding import VarianceExploding

FOLDER: Final = "diffusers"
"""Subfolder of an export."""

NUM_LEVELS: Final = 40
"""Levels of the scheduler, diffusers' default. The pipeline's `timesteps` count them from sigma_max down."""

TIME_PER_LOG_LEVEL: Final = 250.0
"""The scheduler's time is t = 250 ln(sigma)."""

SLOWEST: Final = 1e-4
"""Last frequency of `UNet2DModel`'s embedding with ``freq_shift=1``: monotone in t at all levels."""

SHARPNESS: Final = 30.0
"""Distance of neighbouring levels in units of a hinge: SiLU(30) is 30 and SiLU(-30) is 0, both to 3e-12."""


def check_pipeline(experiment: Experiment) -> None:
    """Say why a recipe has no exact pipeline, before anything is written.

    Raises:
        ConfigError: It has none, or diffusers is not installed.
    """
    reason = _reason(experiment)
    if reason is not None:
        raise ConfigError(
            f"export --diffusers: the recipe must map exactly onto diffusers' ConsistencyModelPipeline, got {reason}. "
            "Export without --diffusers; gcsearch.load samples every export."
        )
    try:
        import diffusers  # noqa: F401 - an optional extra
    except ImportError:
        raise ConfigError(
            "export --diffusers: needs the library diffusers, which is not installed. "
            "Run pip install 'gcsearch[diffusers]', or leave --diffusers out."
        ) from None


def _reason(experiment: Experiment) -> str | None:
    """What stands in the way of an exact mapping; None if nothing does."""
    network, process, shape = experiment.network, experiment.process, experiment.data.event_shape
    if network.name == "song_unet":
        return (
            "network 'song_unet', whose residual paths are scaled by sqrt(1/2), and convolved where the resolution "
            "changes; those of UNet2DModel are not"
        )
    if not isinstance(network, UNet):
        return f"network '{network.name}', which is not a U-Net"
    if network.patch_size != 1:
        return f"network.patch_size {network.patch_size}, and UNet2DModel folds no pixels into channels"
    if network.channels < 32:
        return f"network.channels {network.channels}, and only from 32 on all norms have one number of groups"
    if network.modulation != "shift":
        return f"network.modulation {network.modulation}, and only one that is added can be mapped"
    if experiment.objective.num_conditions > 1:
        return f"objective '{experiment.objective.name}', whose network is told more than one level"
    if not isinstance(process, VarianceExploding):
        return f"process '{process.name}', and the pipeline's scheduler knows variance-exploding noise only"
    if shape[1] != shape[2]:
        return f"images of {shape[1]} x {shape[2]}, and the pipeline draws squares"
    return None


def write_pipeline(model: LoadedModel, folder: Path) -> None:
    """Write the pipeline's folder, in place of an older one.

    Args:
        model: The export; `check_pipeline` has accepted its recipe.
        folder: Read by ``ConsistencyModelPipeline.from_pretrained(folder)``.
    """
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel

    experiment, module = model.experiment, model.function.network
    network, process = experiment.network, experiment.process
    assert isinstance(network, UNet)
    assert isinstance(module, UNetModule)
    image_channels, side, _ = experiment.data.event_shape
    depth = len(network.channel_mult)
    unet = UNet2DModel(
        sample_size=side,
        in_channels=image_channels,
        out_channels=image_channels,
        time_embedding_type="positional",
        flip_sin_to_cos=False,
        freq_shift=1,
        down_block_types=("DownBlock2D",) * depth,
        up_block_types=("UpBlock2D",) * depth,
        block_out_channels=tuple(network.channels * factor for factor in network.channel_mult),
        layers_per_block=network.num_blocks,
        norm_num_groups=module.norm.num_groups,
        norm_eps=module.norm.eps,
        add_attention=False,
        dropout=network.dropout,
    )
    unet.load_state_dict(
        unet.state_dict() | pipeline_weights(module, process.sigma_min, process.sigma_max, process.rho)
    )
    scheduler = CMStochasticIterativeScheduler(
        num_train_timesteps=NUM_LEVELS,
        sigma_min=process.sigma_min,
        sigma_max=process.sigma_max,
        sigma_data=process.sigma_data,
        rho=process.rho,
        clip_denoised=True,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        ConsistencyModelPipeline(unet=unet.eval(), scheduler=scheduler).save_pretrained(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def pipeline_weights(module: UNetModule, sigma_min: float, sigma_max: float, rho: float) -> dict[str, Tensor]:
    """Weights of `UNet2DModel` that make it the given network at the scheduler's levels.

    Args:
        module: A network without patches.
        sigma_min: Smallest level of the scheduler.
        sigma_max: Largest.
        rho: Curvature of its grid.
    """
    layers: dict[str, nn.Module] = {"conv_in": module.stem, "conv_norm_out": module.norm, "conv_out": module.head}
    layers |= _layers_of("mid_block.resnets.0", module.middle)
    for side, blocks in (("down_blocks", module.encoder), ("up_blocks", module.decoder)):
        for depth, resolution in enumerate(blocks):
            assert isinstance(resolution, nn.ModuleList)
            for number, block in enumerate(resolution):
                layers |= _layers_of(f"{side}.{depth}.resnets.{number}", block)
    layers |= {f"down_blocks.{depth}.downsamplers.0.conv": layer for depth, layer in enumerate(module.down)}
    layers |= {f"up_blocks.{depth}.upsamplers.0.conv": layer for depth, layer in enumerate(module.up)}
    weights = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    # Diffusers' middle has a second block: with nothing in its last layer it hands its input on.
    last = module.middle.conv_out
    assert last.bias is not None
    weights["mid_block.resnets.1.conv2.weight"] = torch.zeros_like(last.weight)
    weights["mid_block.resnets.1.conv2.bias"] = torch.zeros_like(last.bias)
    levels = karras_grid(NUM_LEVELS, sigma_min, sigma_max, rho).double()
    with torch.no_grad():
        # The last SiLU is left out: diffusers applies it in each block.
        ours = module.embedding[:2](levels.float().log() / 4).double()
    weights |= embedding_layers(levels, ours, module.stem.out_channels)
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}


def _layers_of(name: str, block: nn.Module) -> dict[str, nn.Module]:
    """Layers of a block by their names in diffusers."""
    assert isinstance(block, Block)
    return {
        f"{name}.norm1": block.norm_in,
        f"{name}.conv1": block.conv_in,
        f"{name}.time_emb_proj": block.affine,
        f"{name}.norm2": block.norm_out,
        f"{name}.conv2": block.conv_out,
        f"{name}.conv_shortcut": block.skip,
    }


def embedding_layers(levels: Tensor, embeddings: Tensor, inputs: int) -> dict[str, Tensor]:
    """The two embedding layers of `UNet2DModel` that give each level the embedding it is to have.

    With u = sin(t / 10^4), the slowest entry of diffusers' own embedding, and increasing levels u_0 < u_1 < ...:

    h(u) = h_0 + sum over i of (slope_i - slope_(i-1)) hinge_i(u),  hinge_i(u) = SiLU(s_i (u - u_i)) / s_i

    slope_i is that from level i to i + 1. Hinges are so sharp that at every level each is 0 or u - u_i.

    Args:
        levels: Increasing levels sigma, N of them.
        embeddings: What each is to become, before the SiLU in each block: (N, E) with N <= E + 1.
        inputs: Entries of diffusers' own embedding.

    Returns:
        Weights and biases by their names in `UNet2DModel`, in float32.
    """
    num, size = embeddings.shape
    u = torch.sin(SLOWEST * TIME_PER_LOG_LEVEL * levels.log())
    gaps = u.diff()
    slopes = embeddings.diff(dim=0) / gaps[:, None]
    changes = torch.cat([slopes[:1], slopes.diff(dim=0)])  # (N - 1, E)
    nearest = torch.minimum(gaps, torch.cat([gaps[:1], gaps[:-1]]))
    sharpness = SHARPNESS / nearest
    first, first_bias = torch.zeros(size, inputs).double(), torch.zeros(size).double()
    second = torch.zeros(size, size).double()
    first[: num - 1, inputs // 2 - 1] = sharpness  # sines come first, the slowest is the last of them
    first_bias[: num - 1] = -sharpness * u[:-1]
    second[:, : num - 1] = (changes / sharpness[:, None]).T
    layers = {"linear_1.weight": first, "linear_1.bias": first_bias, "linear_2.weight": second}
    layers["linear_2.bias"] = embeddings[0]
    return {f"time_embedding.{name}": value.float() for name, value in layers.items()}
