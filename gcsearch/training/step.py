"""One optimisation step: batch in, loss and gradient norm out. No files, no reports."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gcsearch.config import Experiment
from gcsearch.errors import CheckpointError, ConfigError, TrialDiverged
from gcsearch.files import supplied
from gcsearch.registry import spec
from gcsearch.science.couplings import Generator
from gcsearch.science.ema import update_average
from gcsearch.science.networks.base import initialize
from gcsearch.science.objectives import Models
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.randomness import StepDraws, derive_seed
from gcsearch.training.checkpoint import load_checkpoint
from gcsearch.training.distributed import Group, share_of


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step says about itself, over the whole batch; tensors stay on the device."""

    loss: Tensor
    grad_norm: Tensor
    forward_units: float


class Learner:
    """Network, its averages and its optimizer, and the step that moves them.

    Args:
        experiment: The recipe.
        device: Where to train.
        group: The processes that share every batch; this one alone by default.

    Attributes:
        network: Online network.
        average: Its average, which is evaluated.
        predictor_average: Its average that generates end points, if the coupling asks for one of its own.
        frozen_sha256: Digest of the frozen predictor's weights, if the coupling has one. The fingerprint of the
            experiment knows its path only.

    Raises:
        CheckpointError: The frozen predictor cannot be read or does not fit the experiment.
        WeightsError: The distance needs published weights, and they cannot be had.
    """

    def __init__(self, experiment: Experiment, device: torch.device, group: Group | None = None) -> None:
        experiment.distance.prepare()
        self.experiment = experiment
        self.group = Group() if group is None else group
        self.recipe = experiment.recipe
        seed = derive_seed(experiment.seed, "initialization")
        self.network = initialize(experiment.network, experiment.data.event_shape, seed).to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = experiment.optimizer.build(self.network.parameters())
        coupling = experiment.coupling
        rules, path = (coupling.predictor_ema, coupling.checkpoint) if isinstance(coupling, Generator) else ((), None)
        self.predictor_rule = rules[0] if rules else None
        self.predictor_average = copy.deepcopy(self.average) if rules else None
        frozen = None if path is None else load_frozen(supplied(path) or Path(path), experiment).to(device)
        self.frozen_sha256 = None if frozen is None else weights_sha256(frozen)
        self.models = Models(
            online=self._function(self.network),
            ema=self._function(self.average),
            predictor_ema=None if self.predictor_average is None else self._function(self.predictor_average),
            frozen=None if frozen is None else self._function(frozen),
        )

    def _function(self, network: nn.Module) -> ConsistencyFunction:
        training = self.experiment.training
        module: nn.Module = torch.compile(network) if training.compile else network  # type: ignore[assignment]
        return ConsistencyFunction(module, self.experiment.process, training.precision)

    def step(self, data: Tensor, draws: StepDraws, step: int) -> StepReport:
        """Move the weights once.

        Args:
            data: Clean examples of the whole batch.
            draws: Random numbers of the whole batch.
            step: Steps done before this one.

        Raises:
            TrialDiverged: Loss or gradient is not finite, in any process. Weights, average and optimizer are as they
                were. Every process raises it, because all see the same sums.
        """
        training = self.experiment.training
        own_data, own_draws = share_of(self.group, self.recipe.coupling, data, draws)
        terms = self.experiment.objective(self.recipe, self.models, own_data, own_draws, step, training.num_steps)
        self.optimizer.zero_grad(set_to_none=True)
        share = terms.loss / self.group.size
        share.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        # Not DistributedDataParallel: it wraps a network that is called once a step, by one name; here student and
        # teacher share it, and it may be compiled.
        loss, units = share.detach(), torch.tensor(float(terms.forward_units), device=share.device)
        self.group.add([*gradients, loss, units])
        norm = nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(loss + norm)):
            raise TrialDiverged(
                f"step {step + 1}: loss is {loss.item():.4g} and gradient norm {norm.item():.4g}; both must be "
                "finite. A smaller learning rate usually helps."
            )
        self.optimizer.step()
        update_average(self.average, self.network, self.experiment.ema.decay(step + 1, training.batch_size))
        if self.predictor_rule is not None and self.predictor_average is not None:
            decay = self.predictor_rule.decay(step + 1, training.batch_size)
            update_average(self.predictor_average, self.network, decay)
        return StepReport(loss=loss, grad_norm=norm, forward_units=units.item())


def load_frozen(path: Path, experiment: Experiment) -> nn.Module:
    """Network with the averaged weights of a checkpoint, to predict end points in `experiment`.

    Raises:
        CheckpointError: It cannot be read, or its data have another shape or its process is another one.
    """
    checkpoint = load_checkpoint(path)
    try:
        theirs = Experiment.from_dict(checkpoint.config, source=str(path))
    except ConfigError as error:
        raise CheckpointError(f"{path}: holds a recipe that this version of gcsearch cannot read: {error}") from None
    if theirs.data.event_shape != experiment.data.event_shape:
        raise CheckpointError(
            f"{path}: a frozen predictor must be trained on examples of shape {experiment.data.event_shape}, got "
            f"{theirs.data.event_shape}."
        )
    if theirs.process != experiment.process:
        raise CheckpointError(
            f"{path}: a frozen predictor must have the process {spec(experiment.process)}, got {spec(theirs.process)}."
        )
    network = initialize(theirs.network, theirs.data.event_shape, seed=0)
    try:
        network.load_state_dict(checkpoint.average)
    except RuntimeError:
        raise CheckpointError(f"{path}: the weights do not fit the network that its recipe names.") from None
    return network.requires_grad_(False)


def weights_sha256(network: nn.Module) -> str:
    """Digest of all weights: equal if and only if names, shapes and values are."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
