"""One optimisation step: batch in, loss and gradient norm out. No files, no reports."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcsearch.config import Experiment
from gcsearch.errors import TrialDiverged
from gcsearch.science.ema import update_average
from gcsearch.science.networks.base import initialize
from gcsearch.science.objectives import Models
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.randomness import StepDraws, derive_seed


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step says about itself; tensors stay on the device."""

    loss: Tensor
    grad_norm: Tensor
    forward_units: int


class Learner:
    """Network, its average and its optimizer, and the step that moves them.

    Args:
        experiment: The recipe.
        device: Where to train.
    """

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        self.experiment = experiment
        self.recipe = experiment.recipe
        seed = derive_seed(experiment.seed, "initialization")
        self.network = initialize(experiment.network, experiment.data.event_shape, seed).to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = experiment.optimizer.build(self.network.parameters())
        self.models = Models(online=self._function(self.network), ema=self._function(self.average))

    def _function(self, network: nn.Module) -> ConsistencyFunction:
        training = self.experiment.training
        module: nn.Module = torch.compile(network) if training.compile else network  # type: ignore[assignment]
        return ConsistencyFunction(module, self.experiment.process, training.precision)

    def step(self, data: Tensor, draws: StepDraws, step: int) -> StepReport:
        """Move the weights once.

        Args:
            data: Clean examples.
            draws: Random numbers of this step.
            step: Steps done before this one.

        Raises:
            TrialDiverged: Loss or gradient is not finite. Weights, average and optimizer are as they were.
        """
        training = self.experiment.training
        terms = self.experiment.objective(self.recipe, self.models, data, draws, step, training.num_steps)
        self.optimizer.zero_grad(set_to_none=True)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(terms.loss.detach() + norm)):
            raise TrialDiverged(
                f"step {step + 1}: loss is {terms.loss.item():.4g} and gradient norm {norm.item():.4g}; both must be "
                "finite. A smaller learning rate usually helps."
            )
        self.optimizer.step()
        update_average(self.average, self.network, self.experiment.ema.decay(step + 1, training.batch_size))
        return StepReport(loss=terms.loss.detach(), grad_norm=norm, forward_units=terms.forward_units)
