"""Discriminators: small networks that tell examples from generated ones, for the adversarial term of an objective.

To add one: a frozen dataclass below with `@discriminators.register("name")`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from gcsearch.registry import Component, Registry
from gcsearch.science.optimizers import Adam, Optimizer
from gcsearch.science.shapes import Batch, Scalar


def _default_optimizer() -> Optimizer:
    return Adam(lr=2e-3, betas=(0.5, 0.9))


class Discriminator(Component, ABC):
    """Settings of a discriminator. The module is called as ``module(x)`` and returns a logit per example, (B,).

    A large logit says that the example is real. What the module returns depends on `x` and its weights alone.

    Attributes:
        optimizer: What trains it. Learning rate and betas of the default are those of CTM's code, which has RAdam.
    """

    optimizer: Optimizer

    @abstractmethod
    def check(self, event_shape: tuple[int, ...]) -> None:
        """Raise ValueError if it cannot take examples of this shape."""

    @abstractmethod
    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        """Module with fresh weights from torch's global generator."""


discriminators: Registry[Discriminator] = Registry("discriminator")


@discriminators.register("perceptron")
@dataclass(frozen=True, kw_only=True)
class Perceptron(Discriminator):
    """Three linear layers with leaky ReLU on flattened examples: for points and the smallest images.

    Attributes:
        width: Units of a hidden layer, at least 1.
        optimizer: What trains it.
    """

    width: int = 128
    optimizer: Optimizer = field(default_factory=_default_optimizer)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Every shape will do; examples are flattened."""

    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        sizes = [math.prod(event_shape), self.width, self.width]
        layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
        return nn.Sequential(nn.Flatten(1), *layers, nn.Linear(self.width, 1), nn.Flatten(0))


@discriminators.register("convolutional")
@dataclass(frozen=True, kw_only=True)
class Convolutional(Discriminator):
    """Convolutions of stride 2 with leaky ReLU down to 4 x 4 pixels or less, then a linear layer: for images.

    Attributes:
        channels: Channels of the first convolution; they double with every halving of the sides. At least 1.
        optimizer: What trains it.

    Source: the form is DCGAN's (arXiv:1511.06434), without its batch norms. CTM's own is StyleGAN-XL's, on the features
    of two published networks.
    """

    channels: int = 32
    optimizer: Optimizer = field(default_factory=_default_optimizer)

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")

    def check(self, event_shape: tuple[int, ...]) -> None:
        if len(event_shape) != 3:
            raise ValueError(f"needs images, got examples of shape {event_shape}. Use 'perceptron'")

    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        channels, height, width = event_shape
        layers: list[nn.Module] = []
        wider = self.channels
        while max(height, width) > 4:
            layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
            channels, wider, height, width = wider, 2 * wider, -(-height // 2), -(-width // 2)
        return nn.Sequential(*layers, nn.Flatten(1), nn.Linear(channels * height * width, 1), nn.Flatten(0))


def told_apart(discriminator: nn.Module, real: Batch, generated: Batch) -> Scalar:
    """Loss of a discriminator, mean of max(0, 1 - D(real)) + mean of max(0, 1 + D(generated)).

    Its gradient reaches the discriminator only. Source: the hinge loss of CTM's code.
    """
    loss: Tensor = functional.relu(1 - discriminator(real)).mean()
    return loss + functional.relu(1 + discriminator(generated.detach())).mean()


def taken_for_real(discriminator: nn.Module, generated: Batch) -> Scalar:
    """Loss of what generates, - mean of D(generated). Its gradient does not reach the discriminator."""
    fixed = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    loss: Tensor = -functional_call(discriminator, fixed, (generated,)).mean()
    return loss
