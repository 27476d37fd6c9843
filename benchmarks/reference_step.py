"""The training step as the published code of generator-augmented coupling writes it, to be compared with.

One process, fp32, nothing compiled: the predictor runs on the whole batch and a mask keeps its share; optimizer and
average go through the weights one by one in Python; the average moves once in `period` steps. Formulas are written out
for the settings of the published recipes; of the package only the network's module and the random numbers are used.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from lion_pytorch import Lion
from torch import Tensor, nn

from gcsearch.config import Experiment
from gcsearch.science.couplings import Generator, Independent
from gcsearch.science.distances import PseudoHuber, SquaredL2
from gcsearch.science.ema import PowerWarmup
from gcsearch.science.networks.base import initialize
from gcsearch.science.optimizers import Adam as AdamSettings
from gcsearch.science.optimizers import Lion as LionSettings
from gcsearch.science.process import VarianceExploding
from gcsearch.science.randomness import StepDraws, derive_seed
from gcsearch.science.schedules import Exponential, Fixed, InverseGap, Lognormal


class UnknownRecipe(ValueError):  # noqa: N818 - a recipe is no error
    """A recipe with parts that the reference step has not written out."""


class ReferenceLearner:
    """Weights, average and optimizer of one experiment, moved by the plain step.

    Args:
        experiment: Its process must be variance-exploding, its coupling independent or generator with the average as
            predictor, its other sections of the published kinds.
        device: Where to train.

    Raises:
        UnknownRecipe: Another kind of recipe.
    """

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        kinds = {
            "process": (VarianceExploding,),
            "timesteps": (Exponential, Fixed),
            "levels": (Lognormal,),
            "weighting": (InverseGap,),
            "coupling": (Independent, Generator),
            "distance": (PseudoHuber, SquaredL2),
            "optimizer": (LionSettings, AdamSettings),
            "ema": (PowerWarmup,),
        }
        for section, classes in kinds.items():
            component = getattr(experiment, section)
            if not isinstance(component, classes):
                raise UnknownRecipe(f"the reference step knows no {section} '{component.name}'")
        self.experiment = experiment
        network = initialize(
            experiment.network, experiment.data.event_shape, derive_seed(experiment.seed, "initialization")
        )
        self.network = network.to(device=device, memory_format=torch.contiguous_format)
        self.average = copy.deepcopy(self.network)
        settings = experiment.optimizer
        assert isinstance(settings, LionSettings | AdamSettings)
        if isinstance(settings, LionSettings):
            self.optimizer: torch.optim.Optimizer = Lion(
                self.network.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
            )
        else:
            self.optimizer = torch.optim.Adam(
                self.network.parameters(),
                lr=settings.lr,
                betas=settings.betas,
                weight_decay=settings.weight_decay,
                foreach=False,
            )

    def step(self, data: Tensor, draws: StepDraws, step: int) -> tuple[float, float]:
        """Loss and gradient norm of one step, both read from the device."""
        experiment, device = self.experiment, data.device
        process, coupling = experiment.process, experiment.coupling
        levels, num_steps = experiment.levels, experiment.training.num_steps
        assert isinstance(levels, Lognormal)

        # Karras grid of this step, and the pair of levels of each example.
        num = experiment.timesteps.levels_at(step, num_steps)  # type: ignore[attr-defined]
        ramp = torch.linspace(0, 1, num, dtype=torch.float64)
        low, high = process.sigma_min ** (1 / process.rho), process.sigma_max ** (1 / process.rho)
        grid = (low + ramp * (high - low)) ** process.rho
        cumulative = torch.erf((grid.log() - levels.mean) / (math.sqrt(2) * levels.std))
        weights = cumulative[1:] - cumulative[:-1]
        bounds = (weights / weights.sum()).to(device).cumsum(0)
        index = torch.searchsorted(bounds, draws.level_uniforms.double(), right=True).clamp_max(num - 2)
        grid = grid.float().to(device)
        lower, upper = grid[index], grid[index + 1]

        ends, noise, wide = data, draws.noise, (-1,) + (1,) * (data.ndim - 1)
        if isinstance(coupling, Generator):
            with torch.no_grad():
                generated = self.estimate(self.average, data + lower.view(wide) * noise, lower, None)
            count = math.floor(coupling.mu * len(data) + 0.5)
            mask = torch.zeros(len(data), dtype=torch.bool, device=device)
            mask[draws.selection[:count]] = True
            ends = torch.where(mask.view(wide), generated, data)

        seed = draws.dropout_seed
        assert isinstance(seed, int)
        with torch.no_grad():
            target = self.estimate(self.network, ends + lower.view(wide) * noise, lower, seed)
        output = self.estimate(self.network, ends + upper.view(wide) * noise, upper, seed)
        squares = (output - target).flatten(1).pow(2).sum(1)
        if isinstance(experiment.distance, PseudoHuber):
            offset = experiment.distance.c * math.sqrt(data[0].numel())
            squares = torch.sqrt(squares + offset**2) - offset
        loss = (squares / (upper - lower)).mean()

        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = sum(float(weight.grad.norm()) ** 2 for weight in self.network.parameters() if weight.grad is not None)
        self.optimizer.step()
        self.move_average(step + 1)
        return loss.item(), math.sqrt(norm)

    def estimate(self, network: nn.Module, noisy: Tensor, sigma: Tensor, seed: int | None) -> Tensor:
        """EDM's preconditioned network with the boundary condition of consistency models."""
        process = self.experiment.process
        level, variance = sigma.view(-1, *[1] * (noisy.ndim - 1)), process.sigma_data**2
        skip = variance / ((level - process.sigma_min) ** 2 + variance)
        out = process.sigma_data * (level - process.sigma_min) / torch.sqrt(variance + level**2)
        scale = 1 / torch.sqrt(variance + level**2)
        dropout = None if seed is None else torch.tensor(seed - 2**64 if seed >= 2**63 else seed, device=noisy.device)
        output: Tensor = skip * noisy + out * network(scale * noisy, sigma.log() / 4, dropout)
        return output

    @torch.no_grad()
    def move_average(self, step: int) -> None:
        """The average of the weights, one after the other; once in `period` steps."""
        rule = self.experiment.ema
        assert isinstance(rule, PowerWarmup)
        if step % rule.period:
            return
        decay = min(1 - (1 + step) ** -rule.power, rule.max_decay)
        for kept, current in zip(self.average.parameters(), self.network.parameters(), strict=True):
            kept.data.mul_(decay).add_(current.data, alpha=1 - decay)
        for kept, current in zip(self.average.buffers(), self.network.buffers(), strict=True):
            kept.copy_(current)


@contextmanager
def channels_first() -> Iterator[None]:
    """Has networks that ask for activations with channels last keep them as they are, as the published code does."""
    with patch.object(torch, "channels_last", torch.contiguous_format):
        yield
