"""Networks of checkpoints in the format of EDM's code, as networks here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from gcsearch.config.build import build
from gcsearch.errors import CheckpointError, ConfigError
from gcsearch.science.networks.base import initialize
from gcsearch.science.networks.song_unet import SongUNet
from gcsearch.training.edm_pickle import State, read_pickle

SETTINGS: Final = {
    "model_channels": ("channels", 128),
    "channel_mult": ("channel_mult", (1, 2, 2, 2)),
    "channel_mult_emb": ("channel_mult_emb", 4),
    "num_blocks": ("num_blocks", 4),
    "attn_resolutions": ("attn_resolutions", (16,)),
    "embedding_type": ("embedding", "positional"),
    "channel_mult_noise": ("channel_mult_noise", 1),
    "encoder_type": ("encoder", "standard"),
    "resample_filter": ("resample_filter", (1, 1)),
}
"""Arguments of EDM's SongUNet, what they are called here, and their defaults there."""

IGNORED: Final = {"augment_dim", "dropout", "label_dropout", "label_dim", "decoder_type"}
"""Its arguments that a teacher does not need, or that are checked."""

PARTS: Final = {
    "norm0": "norm_in",
    "conv0": "conv_in",
    "affine": "affine",
    "norm1": "norm_out",
    "conv1": "conv_out",
    "skip": "skip",
    "norm2": "attention.norm",
    "qkv": "attention.qkv",
    "proj": "attention.out",
}
"""Layers of a block, there and here."""


@dataclass(frozen=True, kw_only=True)
class EDMNetwork:
    """A network of EDM.

    Attributes:
        settings: What it is here.
        event_shape: Shape of an example.
        sigma_data: Standard deviation of the data it was trained for.
        module: With the weights of the file, without gradient.
    """

    settings: SongUNet
    event_shape: tuple[int, int, int]
    sigma_data: float
    module: nn.Module


def load_edm(path: Path) -> EDMNetwork:
    """The averaged network of a checkpoint of EDM's code.

    Raises:
        CheckpointError: The file cannot be read, holds anything but data, or another network than EDMPrecond around an
            unconditional SongUNet; or its weights do not fit its settings.
    """
    outer = read_pickle(path)
    try:
        return _network(outer)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: must hold EDM's network EDMPrecond around SongUNet without class labels, but: {error}."
        ) from None


def _network(outer: State) -> EDMNetwork:
    if outer.class_name != "EDMPrecond":
        raise ValueError(f"it has {outer.class_name}")
    inner = outer.modules().get("model", State("nothing"))
    if inner.class_name != "SongUNet":
        raise ValueError(f"EDMPrecond has {inner.class_name} inside")
    sigma_data = float(outer.values["sigma_data"])
    if not sigma_data > 0:
        raise ValueError(f"sigma_data is {sigma_data}")
    given: dict[str, Any] = dict(inner.values["_init_kwargs"])
    side, channels = given.pop("img_resolution"), given.pop("in_channels")
    if given.pop("out_channels") != channels or inner.values["_init_args"]:
        raise ValueError("SongUNet was made of other arguments than EDMPrecond makes it of")
    if outer.values["label_dim"] or given.get("label_dim"):
        raise ValueError("it has class labels")
    if given.get("decoder_type", "standard") != "standard":
        raise ValueError(f"SongUNet has decoder_type={given['decoder_type']!r}")
    if unknown := given.keys() - SETTINGS.keys() - IGNORED:
        raise ValueError(f"SongUNet has the unknown arguments {', '.join(sorted(unknown))}")
    values = {here: given.get(there, default) for there, (here, default) in SETTINGS.items()}
    values["attn_resolutions"] = [
        height
        for height in values["attn_resolutions"]
        if height in [side >> depth for depth in range(len(values["channel_mult"]))]
    ]
    try:
        settings: SongUNet = build("network", {"name": "song_unet", **values})
    except ConfigError as error:
        raise ValueError(str(error).rstrip(".")) from None
    shape = (int(channels), int(side), int(side))
    settings.check(shape)
    return EDMNetwork(
        settings=settings, event_shape=shape, sigma_data=sigma_data, module=_filled(settings, shape, inner)
    )


def _filled(settings: SongUNet, shape: tuple[int, int, int], inner: State) -> nn.Module:
    """The network of the settings, with the weights of EDM's."""
    weights = {
        name: value.float()
        for name, value in inner.tensors()
        # Filters follow from the settings, and without augmentation labels their layer adds nothing.
        if not name.endswith("resample_filter") and name != "map_augment.weight"
    }
    if not isinstance(settings.num_blocks, int):
        raise ValueError(f"num_blocks must be one number, got {list(settings.num_blocks)}")
    largest = max((value.numel() for value in weights.values()), default=0)
    if settings.num_blocks > len(weights) or settings.channels * max(settings.channel_mult) > largest:
        raise ValueError("its weights do not fit its settings")  # before settings of any size are built
    names = _names(settings.num_blocks, len(settings.channel_mult), shape[1])
    with torch.device("meta"):
        expected = {name: value.shape for name, value in settings.build(shape).state_dict().items()}
    found = {}
    for name, value in weights.items():
        place, _, leaf = name.rpartition(".")
        block, _, part = place.rpartition(".")
        here = names.get(name) or (f"{names[place]}.{leaf}" if place in names else None)
        if here is None and block in names and part in PARTS:
            here = f"{names[block]}.{PARTS[part]}.{leaf}"
        if here not in expected:
            raise ValueError(f"SongUNet has the unknown weight {name}")
        if value.shape != expected[here]:
            raise ValueError(f"{name} must have the shape {tuple(expected[here])}, got {tuple(value.shape)}")
        found[here] = _by_kind(value) if part == "qkv" else value
    if missing := expected.keys() - found.keys():
        raise ValueError(f"{len(missing)} of its weights are missing, one of them {min(missing)}")
    module = initialize(settings, shape, 0)
    module.load_state_dict(found)
    return module.requires_grad_(False)


def _names(num_blocks: int, resolutions: int, side: int) -> dict[str, str]:
    """Layers and blocks of EDM's network, and what they are called here."""
    names = {"map_noise.freqs": "embedding.0.frequencies", "map_layer0": "embedding.1", "map_layer1": "embedding.3"}
    depths = range(resolutions)
    encoder = decoder = 0
    for depth in depths:
        at = f"enc.{side >> depth}x{side >> depth}"
        if depth == 0:
            names[f"{at}_conv"] = "stem"
        else:
            names[f"{at}_down"], names[f"{at}_aux_residual"] = f"encoder.{encoder}", f"image_path.{encoder}.0"
            encoder += 1
        for number in range(num_blocks):
            names[f"{at}_block{number}"] = f"encoder.{encoder}"
            encoder += 1
    for depth in reversed(depths):
        at = f"dec.{side >> depth}x{side >> depth}"
        if depth == depths[-1]:
            names[f"{at}_in0"], names[f"{at}_in1"] = "middle.0", "middle.1"
        else:
            names[f"{at}_up"] = f"decoder.{decoder}"
            decoder += 1
        for number in range(num_blocks + 1):
            names[f"{at}_block{number}"] = f"decoder.{decoder}"
            decoder += 1
    names[f"dec.{side}x{side}_aux_norm"], names[f"dec.{side}x{side}_aux_conv"] = "norm", "head"
    return names


def _by_kind(value: Tensor) -> Tensor:
    """Rows of attention's first layer: there query, key and value of a channel lie together, here one after another."""
    return torch.cat([value[kind::3] for kind in range(3)])
