"""Optimizers as components. They live with the science because recipes name them and search spaces vary them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gcsearch.registry import Component, Registry

Betas = tuple[float, float]


class Optimizer(Component, ABC):
    """Settings of an optimizer."""

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer for these parameters.

        One that follows PyTorch's protocol for `found_inf`, as its fused optimizers do, can pass over a step without
        telling the host (see `can_skip`); on a GPU, a training waits for the device in every step of any other.
        """


optimizers: Registry[Optimizer] = Registry("optimizer")


def check_optimizer(lr: float, betas: Betas, weight_decay: float) -> None:
    """Reject settings that mean nothing."""
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}")
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be in [0, 1), got {list(betas)}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")


def can_skip(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step changes nothing while ``optimizer.found_inf``, a number on the device, is 1 and not 0.

    That is the protocol by which PyTorch's gradient scaler skips steps of fused optimizers.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


class LionOptimizer(torch.optim.Optimizer):
    """Lion over all weights at once, to the same bits as the loop over weights of the package lion-pytorch.

    u = sign(beta_1 m + (1 - beta_1) g);  w <- (1 - lr weight_decay) w - lr u;  m <- beta_2 m + (1 - beta_2) g

    That package's own form for all weights interpolates by ``lerp``, which rounds otherwise: where the two terms
    cancel, the sign differs, and the weight is off by 2 lr.

    Args:
        parameters: The weights.
        lr: Learning rate.
        betas: beta_1 of the update and beta_2 of the momentum.
        weight_decay: Weight decay; the learning rate is a factor of it.
    """

    _step_supports_amp_scaling: ClassVar[bool] = True
    found_inf: Tensor | None = None

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, betas: Betas, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all weights that have a gradient; none while `found_inf` is 1."""
        del closure
        for group in self.param_groups:
            weights: list[Tensor] = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._move(weights, group["lr"], group["betas"], group["weight_decay"])

    def _move(self, weights: list[Tensor], lr: float, betas: Betas, weight_decay: float) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["exp_avg"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["exp_avg"] for weight in weights]
        shrink: float | Tensor = 1 - lr * weight_decay
        keep: float | Tensor = betas[1]
        moves: Tensor | None = None
        if self.found_inf is not None:
            moves = 1 - self.found_inf
            shrink, keep = (1 - moves + moves * factor for factor in (shrink, keep))
            # As integers, since 0 times NaN is NaN.
            whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}
            bits = [gradient.view(whole[gradient.element_size()]) for gradient in gradients]
            torch._foreach_mul_(bits, moves.to(bits[0].dtype))
        updates = torch._foreach_mul(momenta, betas[0])
        torch._foreach_add_(updates, gradients, alpha=1 - betas[0])
        torch._foreach_sign_(updates)
        if moves is not None:
            torch._foreach_mul_(updates, moves)
        if weight_decay > 0:
            torch._foreach_mul_(weights, shrink)
        torch._foreach_add_(weights, updates, alpha=-lr)
        torch._foreach_mul_(momenta, keep)
        torch._foreach_add_(momenta, gradients, alpha=1 - betas[1])


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
        return LionOptimizer(parameters, self.lr, self.betas, self.weight_decay)


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
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)


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
        return torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)


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
