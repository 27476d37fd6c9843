"""Optimizers as components. They live with the science because recipes name them and search spaces vary them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from gcsearch.registry import Component, Registry

Betas = tuple[float, float]


class Optimizer(Component, ABC):
    """Settings of an optimizer."""

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer for these parameters."""


optimizers: Registry[Optimizer] = Registry("optimizer")


def check_optimizer(lr: float, betas: Betas, weight_decay: float) -> None:
    """Reject settings that mean nothing."""
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}")
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be in [0, 1), got {list(betas)}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")


@optimizers.register("lion")
@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """Lion: the sign of an interpolated momentum, so every weight moves by lr at each step.

    Its learning rate is a third to a tenth of Adam's. Source: Chen et al. 2023 (arXiv:2302.06675); GC's optimizer.
    """

    lr: float = 1e-4
    betas: Betas = (0.9, 0.99)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_optimizer(self.lr, self.betas, self.weight_decay)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        from lion_pytorch import Lion as LionOptimizer

        optimizer: torch.optim.Optimizer = LionOptimizer(
            list(parameters), lr=self.lr, betas=self.betas, weight_decay=self.weight_decay
        )
        return optimizer


@optimizers.register("adam")
@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam. Source: Kingma & Ba 2015 (arXiv:1412.6980)."""

    lr: float = 3e-4
    betas: Betas = (0.9, 0.999)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_optimizer(self.lr, self.betas, self.weight_decay)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


@optimizers.register("adamw")
@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay. Source: Loshchilov & Hutter 2019 (arXiv:1711.05101)."""

    lr: float = 3e-4
    betas: Betas = (0.9, 0.999)
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        check_optimizer(self.lr, self.betas, self.weight_decay)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


@optimizers.register("radam")
@dataclass(frozen=True, kw_only=True)
class RAdam(Optimizer):
    """Rectified Adam, the optimizer of CM, iCT and ECT. Source: Liu et al. 2020 (arXiv:1908.03265)."""

    lr: float = 3e-4
    betas: Betas = (0.9, 0.999)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_optimizer(self.lr, self.betas, self.weight_decay)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RAdam(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
