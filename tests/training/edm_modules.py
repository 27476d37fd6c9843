"""EDM's denoiser restated plainly, from its description: layers that name their weights as its checkpoints do.

`checkpoint` pickles a network in the form of those checkpoints: every module as its class's name, its source code and
its attributes.
"""

from __future__ import annotations

import pickle
import sys
import types
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def _reconstruct_persistent_obj(meta):
    exec(meta["module_src"])  # what the careless function does


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"

MODULE_SRC = "raise RuntimeError('the source code of a checkpoint was run')"


class Persistent(nn.Module):
    """A module that is pickled as EDM's are."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self._init_args, self._init_kwargs = (), kwargs
        self.training = False

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": MODULE_SRC,
            "class_name": type(self).__name__,
            "state": self.__dict__,
        }
        return _reconstruct_persistent_obj, (meta,), None


class Linear(Persistent):
    def __init__(self, inputs, outputs, bias=True):
        super().__init__(in_features=inputs, out_features=outputs, bias=bias, init_weight=np.sqrt(0.2))
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * inputs**-0.5)
        self.bias = nn.Parameter(0.1 * torch.randn(outputs)) if bias else None

    def forward(self, x):
        return functional.linear(x, self.weight, self.bias)


class GroupNorm(Persistent):
    def __init__(self, channels):
        super().__init__(num_channels=channels, eps=1e-6)
        self.num_groups = min(32, channels // 4)
        self.weight, self.bias = (
            nn.Parameter(1 + 0.1 * torch.randn(channels)),
            nn.Parameter(0.1 * torch.randn(channels)),
        )

    def forward(self, x):
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, 1e-6)


class Conv2d(Persistent):
    def __init__(self, inputs, outputs, kernel, up=False, down=False, taps=(1, 1), fused=False):
        super().__init__(in_channels=inputs, out_channels=outputs, kernel=kernel, up=up, down=down)
        self.up, self.down, self.fused = up, down, fused
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) * (inputs * kernel**2) ** -0.5)
        self.bias = nn.Parameter(0.1 * torch.randn(outputs))
        line = torch.tensor(list(taps), dtype=torch.float32)
        window = line[:, None] * line / line.sum() ** 2
        self.register_buffer("resample_filter", window[None, None] if up or down else None)

    def forward(self, x):
        side, window = self.weight.shape[-1] // 2, self.resample_filter
        reach = 0 if window is None else (window.shape[-1] - 1) // 2
        if self.fused:
            x = functional.conv2d(x, self.weight, padding=side + reach)
            x = functional.conv2d(x, window.repeat(x.shape[1], 1, 1, 1), groups=x.shape[1], stride=2)
            return x + self.bias[:, None, None]
        if self.up:
            window = 4 * window.repeat(x.shape[1], 1, 1, 1)
            x = functional.conv_transpose2d(x, window, groups=x.shape[1], stride=2, padding=reach)
        if self.down:
            x = functional.conv2d(x, window.repeat(x.shape[1], 1, 1, 1), groups=x.shape[1], stride=2, padding=reach)
        return functional.conv2d(x, self.weight, self.bias, padding=side)


class UNetBlock(Persistent):
    def __init__(self, inputs, outputs, embedding, attention=False, up=False, down=False, taps=(1, 1)):
        super().__init__(in_channels=inputs, out_channels=outputs, attention=attention, up=up, down=down)
        self.in_channels, self.attention = inputs, attention
        self.norm0, self.conv0 = GroupNorm(inputs), Conv2d(inputs, outputs, 3, up, down, taps)
        self.affine = Linear(embedding, outputs)
        self.norm1, self.conv1 = GroupNorm(outputs), Conv2d(outputs, outputs, 3)
        self.skip = Conv2d(inputs, outputs, 1, up, down, taps) if inputs != outputs or up or down else None
        if attention:
            self.norm2, self.qkv = GroupNorm(outputs), Conv2d(outputs, 3 * outputs, 1)
            self.proj = Conv2d(outputs, outputs, 1)

    def forward(self, x, embedding):
        hidden = self.conv0(functional.silu(self.norm0(x))) + self.affine(embedding)[:, :, None, None]
        hidden = self.conv1(functional.silu(self.norm1(hidden)))
        hidden = (hidden + (x if self.skip is None else self.skip(x))) / 2**0.5
        if not self.attention:
            return hidden
        channels = hidden.shape[1]
        q, k, v = self.qkv(self.norm2(hidden)).reshape(len(x), channels, 3, -1).unbind(2)  # three of each channel
        weights = torch.einsum("bci,bcj->bij", q, k / channels**0.5).softmax(2)
        mixed = torch.einsum("bij,bcj->bci", weights, v).reshape(hidden.shape)
        return (self.proj(mixed) + hidden) / 2**0.5


class PositionalEmbedding(Persistent):
    def __init__(self, num):
        super().__init__(num_channels=num, endpoint=True)
        self.num = num

    def forward(self, noise):
        place = torch.arange(self.num // 2, dtype=torch.float32) / (self.num // 2 - 1)
        return noise[:, None] * (1 / 10_000) ** place


class FourierEmbedding(Persistent):
    def __init__(self, num):
        super().__init__(num_channels=num)
        self.register_buffer("freqs", torch.randn(num // 2))

    def forward(self, noise):
        return noise[:, None] * 2 * np.pi * self.freqs


class SongUNet(Persistent):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        side, images, width = kwargs["img_resolution"], kwargs["in_channels"], kwargs["model_channels"]
        mults, num, taps = kwargs["channel_mult"], kwargs["num_blocks"], kwargs.get("resample_filter", (1, 1))
        residual, size = kwargs.get("encoder_type") == "residual", width * kwargs.get("channel_mult_emb", 4)
        noise = width * kwargs.get("channel_mult_noise", 1)
        self.map_noise = (FourierEmbedding if kwargs.get("embedding_type") == "fourier" else PositionalEmbedding)(noise)
        self.map_augment = Linear(kwargs["augment_dim"], noise, bias=False) if kwargs.get("augment_dim") else None
        self.map_layer0, self.map_layer1 = Linear(noise, size), Linear(size, size)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        skips, now, image = [width], width, images
        for depth, mult in enumerate(mults):
            at = f"{side >> depth}x{side >> depth}"
            if depth == 0:
                self.enc[f"{at}_conv"] = Conv2d(images, width, 3)
            else:
                self.enc[f"{at}_down"] = UNetBlock(now, now, size, down=True, taps=taps)
                if residual:
                    self.enc[f"{at}_aux_residual"] = Conv2d(image, now, 3, down=True, taps=taps, fused=True)
                    image = now
                skips.append(now)
            for number in range(num):
                attends = side >> depth in kwargs["attn_resolutions"]
                self.enc[f"{at}_block{number}"] = UNetBlock(now, width * mult, size, attends)
                now = width * mult
                skips.append(now)
        for depth, mult in reversed(list(enumerate(mults))):
            at = f"{side >> depth}x{side >> depth}"
            if depth == len(mults) - 1:
                self.dec[f"{at}_in0"], self.dec[f"{at}_in1"] = (
                    UNetBlock(now, now, size, True),
                    UNetBlock(now, now, size),
                )
            else:
                self.dec[f"{at}_up"] = UNetBlock(now, now, size, up=True, taps=taps)
            for number in range(num + 1):
                attends = number == num and side >> depth in kwargs["attn_resolutions"]
                self.dec[f"{at}_block{number}"] = UNetBlock(now + skips.pop(), width * mult, size, attends)
                now = width * mult
        self.dec[f"{side}x{side}_aux_norm"] = GroupNorm(now)
        self.dec[f"{side}x{side}_aux_conv"] = Conv2d(now, images, 3)

    def forward(self, x, noise):
        angles = self.map_noise(noise)
        embedding = functional.silu(self.map_layer0(torch.cat([angles.sin(), angles.cos()], 1)))
        embedding, image, skips = functional.silu(self.map_layer1(embedding)), x, []
        for name, block in self.enc.items():
            if "aux" in name:
                x = skips[-1] = image = (x + block(image)) / 2**0.5
            else:
                x = block(x) if "conv" in name else block(x, embedding)
                skips.append(x)
        for name, block in self.dec.items():
            if "aux" in name:
                x = block(x) if "norm" in name else block(functional.silu(x))
            else:
                x = block(x if x.shape[1] == block.in_channels else torch.cat([x, skips.pop()], 1), embedding)
        return x


class EDMPrecond(Persistent):
    def __init__(self, sigma_data=0.5, label_dim=0, **kwargs):
        super().__init__(**kwargs)
        self.sigma_data, self.label_dim, self.sigma_min, self.sigma_max = sigma_data, label_dim, 0, float("inf")
        self.model = SongUNet(label_dim=label_dim, **kwargs)

    def forward(self, x, sigma):
        sigma = sigma[:, None, None, None]
        total = sigma**2 + self.sigma_data**2
        output = self.model(x / total**0.5, sigma.flatten().log() / 4)
        return self.sigma_data**2 / total * x + sigma * self.sigma_data / total**0.5 * output


class Loss(Persistent):
    """Other things lie beside the network."""


@contextmanager
def importable():
    """EDM's module of persistent classes, as pickle finds it while it writes."""
    found = {name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence")}
    found["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    before = {name: sys.modules.get(name) for name in found}
    sys.modules.update(found)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def checkpoint(path: Path, network: nn.Module, **more: Any) -> Path:
    """Write a network as EDM's code does."""
    with importable():
        content = {"ema": network, "loss_fn": Loss(P_mean=-1.2), "augment_pipe": None, "dataset_kwargs": {}, **more}
        path.write_bytes(pickle.dumps(content))
    return path
