"""From the published code's keys to the data, the network and the process of an experiment.

A function a section: it returns the section and the remarks about it. What a remark says of the published code was read
in that code.
"""

from __future__ import annotations

from typing import Any

from gcsearch.config.published import keys
from gcsearch.config.published.keys import NetworkConfig, TopLevel, TrainConfig
from gcsearch.config.published.notes import Mapped, Note, Section, fixed
from gcsearch.registry import plain

DATA = {("imagenet", 32): "imagenet32", ("celeba", 64): "celeba64"}
"""Data sets whose size that code reads; CIFAR-10 has one size."""


def is_bridge(train: Section[TrainConfig]) -> bool:
    """Whether the file is of the first version, whose process was the bridge."""
    return train.values.diffusion_type in keys.BRIDGE_TYPES


def data_section(top: Section[TopLevel], network: Section[NetworkConfig]) -> Mapped:
    """Data set: its name and size become one name."""
    dataset, resolution = top.values.dataset, network.values.img_resolution
    size = resolution if top.values.image_size is None else top.values.image_size
    if dataset == "cifar10":
        name, size, why = "cifar10", 32, ""
    elif (dataset, size) in DATA:
        name, why = DATA[dataset, size], ""
    else:
        name, why = f"{dataset}{size}", "Not one of that code's data sets: put the name of one of gcsearch here."
    notes = [top.note("dataset", "data.name", name, why, attention=bool(why))]
    if "image_size" in top.given:
        notes.append(top.note("image_size", "data.name", name))
    if size != resolution:
        notes.append(
            Note(
                kind="attention",
                key="generator.img_resolution",
                value=resolution,
                here="network",
                why=f"The images have {size} x {size} pixels: the network here takes its size from the data.",
            )
        )
    if network.values.img_channels != 3:
        notes.append(
            network.note("img_channels", "network", None, "The data sets of that code have 3.", attention=True)
        )
    return {"name": name}, notes


def network_section(train: Section[TrainConfig], network: Section[NetworkConfig]) -> Mapped:
    """Network: EDM's U-Net under its name here."""
    values = network.values
    heights = [values.img_resolution >> depth for depth in range(len(values.channel_mult))]
    attention = [height for height in values.attn_resolutions if height in heights]
    section: dict[str, Any] = {"name": "song_unet"}
    notes = []
    for there, here in (
        ("model_channels", "channels"),
        ("channel_mult", "channel_mult"),
        ("num_blocks", "num_blocks"),
        ("dropout", "dropout"),
    ):
        section[here] = plain(getattr(values, there))
        notes.append(network.note(there, f"network.{here}", section[here]))
    if lists := [key for key in ("num_blocks", "dropout") if isinstance(getattr(values, key), tuple)]:
        why = "HEAD of that code fails on a list here: it stopped converting them in January 2025."
        notes.append(Note(kind="attention", key=f"generator.{' and '.join(lists)}", here="network", why=why))
    section["attn_resolutions"] = attention
    dropped = [height for height in values.attn_resolutions if height not in heights]
    why = f"No feature map has height {', '.join(map(str, dropped))}; the network has {heights}." if dropped else ""
    notes.append(network.note("attn_resolutions", "network.attn_resolutions", attention, why))
    for there, here in (
        ("embedding_type", "embedding"),
        ("encoder_type", "encoder"),
        ("resample_filter", "resample_filter"),
        ("channel_mult_emb", "channel_mult_emb"),
        ("channel_mult_noise", "channel_mult_noise"),
        ("fourier_scale", "fourier_scale"),
    ):
        value = getattr(values, there)
        if value != getattr(type(values), there):
            section[here] = plain(value)
        if there in network.given:
            notes.append(network.note(there, f"network.{here}", plain(value)))
    has_dropout = bool(max(values.dropout) if isinstance(values.dropout, tuple) else values.dropout)
    if has_dropout and is_bridge(train):
        notes.append(
            _dropout_note("Before August 2024 that code gave student and teacher different masks; here they share one.")
        )
    if has_dropout and train.values.generator_induced_traj:
        notes.append(
            _dropout_note(
                "That code's predictor of end points has dropout (its average, until the first evaluation); here never."
            )
        )
    return section, notes


def _dropout_note(why: str) -> Note:
    return Note(kind="attention", key="generator.dropout", here="network", why=why)


def process_section(train: Section[TrainConfig], network: Section[NetworkConfig]) -> Mapped:
    """Process: variance exploding at HEAD, the bridge in the first version's files."""
    values, name = train.values, "bridge" if is_bridge(train) else "ve"
    if is_bridge(train):
        why, attention = (
            "A file of the paper's first version (June 2024), which trained the bridge. HEAD ignores this key and "
            "would train the variance-exploding process up to train_config.sigma_max.",
            True,
        )
    elif values.diffusion_type == "var_exp":
        why, attention = "HEAD ignores this key and always trains this process.", False
    elif values.diffusion_type is None:
        why, attention = (
            "HEAD always trains this process; the first version's default was the bridge (interpolation).",
            False,
        )
    else:
        why, attention = "Unknown to that code; HEAD ignores this key and trains the variance-exploding process.", True
    sigma_max = keys.BRIDGE_SIGMA_MAX if is_bridge(train) else values.sigma_max
    notes = [
        train.note("diffusion_type", "process.name", name, why, attention),
        train.note("sigma_min", "process.sigma_min", values.sigma_min),
        train.note(
            "sigma_max",
            "process.sigma_max",
            sigma_max,
            "The bridge's grid ends at 80 in that code, whatever this key says.",
        )
        if is_bridge(train)
        else train.note("sigma_max", "process.sigma_max", sigma_max),
        network.note("sigma_data", "process.sigma_data", network.values.sigma_data),
        fixed("rho", "process.rho", keys.RHO),
    ]
    differs = network.values.sigma_min != values.sigma_min
    why = "The network there is the identity at this level; here at the smallest level of the grid." if differs else ""
    notes.append(network.note("sigma_min", "process.sigma_min", values.sigma_min, why, attention=differs))
    section = {
        "name": name,
        "sigma_min": values.sigma_min,
        "sigma_max": sigma_max,
        "sigma_data": network.values.sigma_data,
        "rho": keys.RHO,
    }
    return section, notes
