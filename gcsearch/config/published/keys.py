"""The keys of the published code's configurations, with that code's own defaults.

Three sections: the top level, ``train_config`` (its class `Train_config`) and ``generator`` (`ConsistencyPrecond` and,
through it, `SongUNet`). A field is a key that the training reads; `UNUSED` has those that it does not.

Source: github.com/thibautissenhuth/consistency_GC, `utils.py`, `train_consistency.py`, `edm_networks.py` and
`configs/`, June 2024 to September 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TRAIN_CONFIG = "utils.Train_config"
ABSENT_TRAIN_CONFIG = "utils.Train_config_DSB"
NETWORK = "edm_networks.ConsistencyPrecond"

BRIDGE_TYPES = ("interpolation", "bridge")
"""Values of `diffusion_type` that mean the bridge of the paper's first version; its code says ``interpolation``."""

RHO = 7.0
BRIDGE_SIGMA_MAX = 80.0
LEVELS_MEAN, LEVELS_STD = -1.1, 2.0
HUBER_C = 0.00054
EMA_PERIOD = 5
SEED = 999
EVALUATE_EVERY_STEPS = 5_000
"""From the command in its README; the rest of this block is written in the code."""
NUM_SAMPLES = 50_000


@dataclass(frozen=True, kw_only=True)
class TopLevel:
    """Keys beside the sections; those without a default here have none there."""

    name_exp: str
    dataset: str
    image_size: int | None = None
    batch_size: int
    lr: float
    optimizer: Literal["adam", "radam", "lion"]

    def __post_init__(self) -> None:
        if not self.name_exp.strip():
            raise ValueError(f"name_exp must not be empty, got {self.name_exp!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Section ``train_config``."""

    _target_: str = TRAIN_CONFIG
    n_train_steps: int = 10_000
    loss_type: Literal["huber", "l2", "lpips"] = "huber"
    diffusion_type: str | None = None
    sigma_min: float = 0.001
    sigma_max: float = 50.0
    s0: int = 10
    s1: int = 1280
    ema_decay: float = 0.999
    ema_start: int = 10_000
    path: str | None = None
    generator_induced_traj: bool = False
    generator_induced_traj_ema: bool = False
    mix_gen_induced_traj: float = 0.0
    mix_gen_induced_traj_end: float | None = None

    def __post_init__(self) -> None:
        if self.n_train_steps < 1:
            raise ValueError(f"n_train_steps must be at least 1, got {self.n_train_steps}")
        if self.ema_start < 0:
            raise ValueError(f"ema_start must be >= 0, got {self.ema_start}")
        for name in ("mix_gen_induced_traj", "mix_gen_induced_traj_end"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Section ``generator``: the network. Values that no network of ours can express are refused."""

    _target_: str = NETWORK
    img_resolution: int
    img_channels: int
    use_fp16: bool = False
    sigma_min: float = 0.0
    sigma_data: float = 0.5
    model_type: str = "SongUNet"
    song_rescaling: bool = False
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int | tuple[int, ...] = 4
    attn_resolutions: tuple[int, ...] = ()
    dropout: float | tuple[float, ...] = 0.1
    embedding_type: Literal["positional", "fourier"] = "positional"
    fourier_scale: float = 16.0
    channel_mult_noise: int = 1
    encoder_type: Literal["standard", "residual"] = "standard"
    decoder_type: Literal["standard"] = "standard"
    resample_filter: tuple[int, ...] = (1, 1)
    consistency: bool = False

    def __post_init__(self) -> None:
        for name in ("img_resolution", "img_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self._target_ != NETWORK:
            raise ValueError(f"_target_ must be {NETWORK}, got {self._target_!r}. Other networks have no counterpart")
        if self.model_type != "SongUNet":
            raise ValueError(f"model_type must be SongUNet, got {self.model_type!r}. Others have no counterpart here")
        if self.song_rescaling:
            raise ValueError("song_rescaling must be false, got true. Networks here take c_noise = ln(sigma) / 4")
        if self.consistency:
            raise ValueError(
                "consistency must be false, got true. A second boundary inside the network has no counterpart"
            )


UNUSED: dict[str, dict[str, str]] = {
    "": {
        "train_w_score": "Never read by that code.",
        "ngpu": "Never read by that code; torchrun says how many processes.",
        "workers": "Processes that load data there; gcsearch prepares batches itself.",
    },
    "train_config": {
        "dataset": "Never read by that code; the key at the top level counts.",
        "sigma_data": "Never read by that code; generator.sigma_data counts.",
        "minibatch_OT": "Never read by that code.",
        "start_generator_induced_traj": "Never read by that code: it generates from the first step on.",
        "end_generator_induced_traj": "Never read by that code: it generates up to the last step.",
        "z_dim": "No key of that code's classes; with it the file fails there.",
        "generator_type": "No key of that code's classes; with it the file fails there.",
        "consistency": "No key of that code's classes; with it the file fails there.",
    },
    "generator": {
        "sigma_max": "Stored by that code and never used.",
        "label_dim": "That code's training passes no labels.",
        "label_dropout": "That code's training passes no labels.",
        "augment_dim": "That code's training passes no augmentation labels.",
        "div_factor_cfunc": "Without effect unless generator.consistency is true.",
    },
}
"""Keys that are known and have no effect, by section; the empty name is the top level."""
