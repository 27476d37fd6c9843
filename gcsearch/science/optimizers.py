"""Optimizers as components. They live with the science because recipes name them and search spaces vary them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from gcsearch.registry import Component, Registry

Betas = tuple[float, float]
State = dict[str, Tensor]


class Optimizer(Component, ABC):
    """Settings of an optimizer."""

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer for these parameters.

        One that follows PyTorch's protocol for `found_inf`, as its fused optimizers do, can pass over a step without
        telling the host (see `can_skip`); on a GPU, a training waits for the device in every step of any other.
        """

    @property
    def can_compile(self) -> bool:
        """Whether a compiled step can hold the optimizer: whether it has a method `moved`."""
        return type(self).moved is not Optimizer.moved

    def factors(self, count: int) -> tuple[float, ...]:
        """Numbers that `moved` is given in step number `count`, 1-based: all that depends on it."""
        del count
        return ()

    def moved(self, weight: Tensor, gradient: Tensor, state: State, factors: Sequence[Tensor]) -> tuple[Tensor, State]:
        """A weight after a step, and what else of its state has changed, as a function of tensors alone.

        The same step as that of the optimizer from `build`, for a compiled training; both share the state.

        Args:
            weight: The weight.
            gradient: Its gradient.
            state: What the optimizer keeps for it, by name. The caller counts steps in ``step``, if it is there.
            factors: What `factors` returned, as tensors.
        """
        raise NotImplementedError(f"optimizer '{self.name}' cannot be compiled")


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

    def moved(self, weight: Tensor, gradient: Tensor, state: State, factors: Sequence[Tensor]) -> tuple[Tensor, State]:
        del factors
        (beta_1, beta_2), momentum = self.betas, state["exp_avg"]
        update = (beta_1 * momentum + (1 - beta_1) * gradient).sign()
        kept = beta_2 * momentum + (1 - beta_2) * gradient
        return (1 - self.lr * self.weight_decay) * weight - self.lr * update, {"exp_avg": kept}


EPS: Final = 1e-8
"""Added to the root of the second moment, in Adam and its relatives."""


def moments(gradient: Tensor, state: State, betas: Betas) -> State:
    """Moments m and v after a step: beta_1 m + (1 - beta_1) g and beta_2 v + (1 - beta_2) g^2."""
    (beta_1, beta_2), momentum, square = betas, state["exp_avg"], state["exp_avg_sq"]
    return {
        "exp_avg": momentum + (1 - beta_1) * (gradient - momentum),
        "exp_avg_sq": beta_2 * square + (1 - beta_2) * gradient * gradient,
    }


def adam_factors(count: int, lr: float, betas: Betas) -> tuple[float, float]:
    """Factors of step k = `count`: lr / (1 - beta_1^k) and sqrt(1 - beta_2^k)."""
    return lr / (1 - betas[0] ** count), math.sqrt(1 - betas[1] ** count)


def adam_update(new: State, factors: Sequence[Tensor]) -> Tensor:
    """What Adam subtracts from a weight, from the moments and `adam_factors`."""
    rate, root = factors
    return rate * new["exp_avg"] / (new["exp_avg_sq"].sqrt() / root + EPS)


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

    def factors(self, count: int) -> tuple[float, ...]:
        return adam_factors(count, self.lr, self.betas)

    def moved(self, weight: Tensor, gradient: Tensor, state: State, factors: Sequence[Tensor]) -> tuple[Tensor, State]:
        new = moments(gradient + self.weight_decay * weight, state, self.betas)
        return weight - adam_update(new, factors), new


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

    def factors(self, count: int) -> tuple[float, ...]:
        return adam_factors(count, self.lr, self.betas)

    def moved(self, weight: Tensor, gradient: Tensor, state: State, factors: Sequence[Tensor]) -> tuple[Tensor, State]:
        new = moments(gradient, state, self.betas)
        return (1 - self.lr * self.weight_decay) * weight - adam_update(new, factors), new


class RAdamOptimizer(torch.optim.RAdam):
    """PyTorch's RAdam, which can also pass over steps on the device (see `can_skip`): PyTorch's own cannot.

    m <- beta_1 m + (1 - beta_1) g;  v <- beta_2 v + (1 - beta_2) g^2;  w <- w - lr r m / (1 - beta_1^k) u,
    u = sqrt(1 - beta_2^k) / (sqrt(v) + eps), or 1 with r = 1 in the first steps

    The factors of step k come from the host, which counts the calls. That is the number of steps as long as none was
    skipped, and a training that has skipped one skips all after it; the number in the state is right in any case.
    """

    _step_supports_amp_scaling: ClassVar[bool] = True
    found_inf: Tensor | None = None
    _calls: dict[Tensor, int] | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all weights that have a gradient; none while `found_inf` is 1."""
        if self.found_inf is None:
            self._calls = None
            super().step(closure)
            return
        moves = 1 - self.found_inf
        if self._calls is None:  # waits for the device, once
            self._calls = {weight: int(state["step"]) for weight, state in self.state.items()}
            for state in self.state.values():
                state["step"] = state["step"].to(moves.device)
        for group in self.param_groups:
            alike: dict[int, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    self._calls[weight] = count = self._calls.get(weight, 0) + 1
                    alike.setdefault(count, []).append(weight)
            for count, weights in alike.items():
                self._move(weights, group, count, moves)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        super().load_state_dict(state_dict)
        self._calls = None

    def _move(self, weights: list[Tensor], group: dict[str, Any], count: int, moves: Tensor) -> None:
        for weight in weights:
            if not self.state[weight]:
                zeros = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
                self.state[weight] = {"step": torch.zeros_like(moves), **zeros}
        names = ("step", "exp_avg", "exp_avg_sq")
        steps, momenta, squares = ([self.state[weight][name] for weight in weights] for name in names)
        torch._foreach_add_(steps, [moves] * len(steps))  # added as one tensor, it would be read
        (beta_1, beta_2), lr = group["betas"], group["lr"]
        # A gradient that is not finite has to become 0, and 0 times NaN is NaN.
        gradients = [torch.where(moves > 0, weight.grad, 0.0) for weight in weights if weight.grad is not None]
        if group["weight_decay"] > 0:
            torch._foreach_add_(gradients, torch._foreach_mul(weights, moves), alpha=group["weight_decay"])
        torch._foreach_mul_(momenta, 1 - moves * (1 - beta_1))
        torch._foreach_add_(momenta, gradients, alpha=1 - beta_1)
        torch._foreach_mul_(squares, 1 - moves * (1 - beta_2))
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta_2)
        updates = torch._foreach_mul(momenta, moves)
        factor, is_rectified = radam_factors(count, lr, group["betas"])
        if is_rectified:
            roots = torch._foreach_sqrt(squares)
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_div_(updates, roots)
        torch._foreach_add_(weights, updates, alpha=-factor)


def radam_factors(count: int, lr: float, betas: Betas) -> tuple[float, bool]:
    """The number before the momentum in step number `count`, and whether the second moment divides it."""
    beta_1, beta_2 = betas
    factor = lr / (1 - beta_1**count)
    longest = 2 / (1 - beta_2) - 1
    length = longest - 2 * count * beta_2**count / (1 - beta_2**count)
    if length <= 5:
        return factor, False
    rectifier = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return factor * math.sqrt(rectifier * (1 - beta_2**count)), True


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
        return RAdamOptimizer(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

    def factors(self, count: int) -> tuple[float, ...]:
        factor, is_rectified = radam_factors(count, self.lr, self.betas)
        return factor, float(is_rectified)

    def moved(self, weight: Tensor, gradient: Tensor, state: State, factors: Sequence[Tensor]) -> tuple[Tensor, State]:
        factor, is_rectified = factors
        new = moments(gradient + self.weight_decay * weight, state, self.betas)
        divisor = torch.where(is_rectified > 0, new["exp_avg_sq"].sqrt() + EPS, 1.0)
        return weight - factor * new["exp_avg"] / divisor, new
