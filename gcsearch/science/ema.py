"""Averages of the weights over training: for evaluation, and for GC's predictor.

A rule gives the decay of each step; the averaged network itself belongs to the trainer. To add a rule: a frozen
dataclass below with `@emas.register("name")`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from gcsearch.registry import Component, Registry


class EMA(Component, ABC):
    """Rule of an exponential moving average of the weights."""

    @abstractmethod
    def decay(self, step: int, batch_size: int) -> float:
        """Weight of the old average in the update after step `step` (1-based), in [0, 1)."""


emas: Registry[EMA] = Registry("ema")


@emas.register("power_warmup")
@dataclass(frozen=True, kw_only=True)
class PowerWarmup(EMA):
    """Decay that grows with training, so that the average always spans a share of the steps so far.

    decay(s) = min(1 - (1 + s)^(-power), max_decay)^(1 / period)

    The published runs applied the inner decay once in every five steps (ema_pytorch); its fifth root at every step is
    the same average with a finer rhythm. Their cap of 0.9999 would be reached after a million steps, so the half-life
    was in truth about 13 % of the steps so far at 20k steps.

    Attributes:
        max_decay: Cap of the decay over `period` steps, in [0, 1).
        power: Exponent; larger is slower to forget.
        period: Steps per published update.

    Source: read in ema_pytorch 0.2.3 as called by the GC code.
    """

    max_decay: float = 0.9999
    power: float = 2 / 3
    period: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.max_decay < 1:
            raise ValueError(f"max_decay must be in [0, 1), got {self.max_decay}")
        if not self.power > 0:
            raise ValueError(f"power must be > 0, got {self.power}")
        if self.period < 1:
            raise ValueError(f"period must be at least 1, got {self.period}")

    def decay(self, step: int, batch_size: int) -> float:
        del batch_size
        return float(min(1 - (1 + step) ** -self.power, self.max_decay) ** (1 / self.period))


@emas.register("constant")
@dataclass(frozen=True, kw_only=True)
class Constant(EMA):
    """Constant decay, given as a half-life: decay = 0.5^(batch_size / half_life_images).

    Attributes:
        half_life_images: Images after which an old weight counts half; > 0.
    """

    half_life_images: float = 500_000.0

    def __post_init__(self) -> None:
        if not self.half_life_images > 0:
            raise ValueError(f"half_life_images must be > 0, got {self.half_life_images}")

    def decay(self, step: int, batch_size: int) -> float:
        del step
        return float(0.5 ** (batch_size / self.half_life_images))


@cache
def power_of_width(sigma_rel: float) -> float:
    """Exponent gamma >= 0 of the profile s^gamma on [0, 1] whose standard deviation is `sigma_rel`."""
    from scipy.optimize import brentq  # a fifth of the time that importing the science would take

    # The width falls with gamma from sqrt(1 / 12) at gamma = 0, and is below 1 / (gamma + 2).
    return float(brentq(lambda power: profile_width(power) - sigma_rel, 0.0, 1 / sigma_rel, xtol=1e-12))


def profile_width(power: float) -> float:
    """Standard deviation of the density (gamma + 1) s^gamma on [0, 1]."""
    return math.sqrt((power + 1) / (power + 3)) / (power + 2)


@emas.register("power_function")
@dataclass(frozen=True, kw_only=True)
class PowerFunction(EMA):
    """Average over a share of the training so far, the same share at every length.

    decay(s) = (1 - 1 / s)^(gamma + 1), sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))

    The weights of step s count in proportion to s^gamma after any number of steps, so a setting found with short
    trainings holds for long ones.

    Attributes:
        sigma_rel: Standard deviation of the profile in units of the steps so far, in (0, 0.28); 0.2887 would be the
            plain mean over all steps.

    Source: EDM2 (post-hoc EMA section), with its time step of one update.
    """

    sigma_rel: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.sigma_rel < 0.28:
            raise ValueError(f"sigma_rel must be in (0, 0.28), got {self.sigma_rel}")

    def decay(self, step: int, batch_size: int) -> float:
        del batch_size
        return float((1 - 1 / step) ** (power_of_width(self.sigma_rel) + 1))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, found_inf: Tensor | None = None) -> None:
    """Average <- decay average + (1 - decay) network, for all parameters; buffers are copied.

    Args:
        average: Averaged network.
        network: Network as it is now.
        decay: Weight of the old average, in [0, 1).
        found_inf: A number on the device: while it is 1 and not 0, nothing changes.
    """
    kept: list[Tensor] = list(average.parameters())
    current: list[Tensor] = list(network.parameters())
    if found_inf is None:
        torch._foreach_lerp_(kept, current, 1 - decay)
    else:
        # Weights that lie on the device are no argument that `lerp` of many tensors takes.
        differences = torch._foreach_sub(current, kept)
        torch._foreach_mul_(differences, (1 - decay) * (1 - found_inf))
        torch._foreach_add_(kept, list(differences))
    for stored, latest in zip(average.buffers(), network.buffers(), strict=True):
        stored.copy_(latest)
