"""One optimisation step: batch in, loss and gradient norm out. No files, no reports."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcsearch.config import Experiment
from gcsearch.errors import TrialDiverged
from gcsearch.science.couplings import Generator
from gcsearch.science.ema import update_average
from gcsearch.science.objectives import Models, TensorObjective
from gcsearch.science.optimizers import can_skip
from gcsearch.science.randomness import StepDraws, derive_seed
from gcsearch.training.compiled import CompiledLoss, CompiledUpdate
from gcsearch.training.distributed import Group, share_of
from gcsearch.training.pretrained import load_frozen, load_teacher, start_from, weights_sha256


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step says about itself, over the whole batch; tensors stay on the device."""

    loss: Tensor
    grad_norm: Tensor
    forward_units: Tensor


class Guard:
    """The first step whose loss or gradient was not finite, kept on the device so that no step has to wait for it.

    Attributes:
        found: 1 from that step on, 0 before.
    """

    def __init__(self, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self._first = torch.zeros(3, dtype=torch.float64, device=device)  # step, loss, gradient norm

    def look(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Take note of step number `step`."""
        found = torch.maximum(self.found, (~torch.isfinite(loss + norm)).to(self.found))
        position = torch.full((), float(step), dtype=torch.float64, device=found.device)
        seen = torch.stack([position, loss.double(), norm.double()])
        self._first = torch.where(found > self.found, seen, self._first)
        self.found = found

    def check(self) -> None:
        """Wait for the device, and raise if there was such a step.

        Raises:
            TrialDiverged: There was.
        """
        found, step, loss, norm = torch.cat([self.found[None].double(), self._first]).tolist()
        if found:
            raise TrialDiverged(
                f"step {int(step) + 1}: loss is {loss:.4g} and gradient norm {norm:.4g}; both must be finite. A "
                "smaller learning rate usually helps.",
                step=int(step),
            )


class Learner:
    """Network, its averages and its optimizer, and the step that moves them.

    Args:
        experiment: The recipe.
        device: Where to train.
        group: The processes that share every batch; this one alone by default.
        may_be_untrained: Whether a teacher that has yet to be trained may have random weights: to measure times.

    Attributes:
        network: Online network.
        average: Its average, which is evaluated.
        predictor_average: Its average that generates end points, if the coupling asks for one of its own.
        target: Its average that the student matches, if the objective keeps one.
        companion: The objective's own module, if it has one.
        companion_optimizer: Its optimizer.
        weights: All that is trained.
        frozen_sha256: Digest of the frozen predictor's weights, if the coupling has one. The fingerprint of the
            experiment knows its path only.
        teacher_sha256: The same of the objective's teacher.
        guard: Looks after loss and gradients.
        compiled: The loss and its gradient as one graph, if the recipe asks for it.
        compiled_update: What the gradient does to the weights as another; used from the second step on.
        waits: Whether every step waits until its loss and gradient are known to be finite. On a CPU that costs nothing.
            On a GPU, optimizers that can skip steps on the device do so once something is not finite, and so do the
            averages; `guard.check` says which step it was.

    Raises:
        CheckpointError: The frozen predictor or the teacher cannot be read or does not fit the experiment.
        WeightsError: The distance needs published weights, and they cannot be had.
    """

    def __init__(
        self,
        experiment: Experiment,
        device: torch.device,
        group: Group | None = None,
        *,
        may_be_untrained: bool = False,
    ) -> None:
        experiment.distance.prepare()
        self.experiment = experiment
        self.group = Group() if group is None else group
        self.recipe = experiment.recipe
        seed = derive_seed(experiment.seed, "initialization")
        self.network = experiment.new_network(seed).to(device)
        teacher, objective = load_teacher(experiment, may_be_untrained=may_be_untrained), experiment.objective
        if teacher is not None and objective.starts_from_teacher:
            start_from(self.network, teacher.network)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.target = copy.deepcopy(self.average) if objective.keeps_target else None
        self.optimizer = experiment.optimizer.build(self.network.parameters())
        self.guard = Guard(device)
        coupling = experiment.coupling
        rules = coupling.predictor_ema if isinstance(coupling, Generator) else ()
        self.predictor_rule = rules[0] if rules else None
        self.predictor_average = copy.deepcopy(self.average) if rules else None
        frozen = load_frozen(experiment)
        self.frozen_sha256 = None if frozen is None else weights_sha256(frozen.network)
        self.teacher_sha256 = None if teacher is None else weights_sha256(teacher.network)
        companion = experiment.new_companion(derive_seed(experiment.seed, "initialization", 1))
        self.companion = self.companion_optimizer = None
        if companion is not None:
            self.companion = companion.to(device)
            self.companion_optimizer = objective.companion_optimizer.build(self.companion.parameters())
        modules = [self.network] if self.companion is None else [self.network, self.companion]
        self.weights = [weight for module in modules for weight in module.parameters()]
        self.waits = device.type == "cpu" or not all(map(can_skip, self.optimizers))
        self.models = Models(
            online=experiment.function(self.network),
            ema=experiment.function(self.average),
            predictor_ema=None if self.predictor_average is None else experiment.function(self.predictor_average),
            frozen=None if frozen is None else frozen.function(frozen.network.to(device), experiment),
            target=None if self.target is None else experiment.function(self.target),
            teacher=None if teacher is None else teacher.function(teacher.network.to(device), experiment),
            companion=self.companion,
        )
        self.compiled = self.compiled_update = None
        if experiment.training.compile and isinstance(objective, TensorObjective):
            self.compiled = CompiledLoss(objective, self.recipe, self.models, self.group.size)
            settings = [experiment.optimizer, objective.companion_optimizer]
            averages = [(average, self.network) for average in self.averages]
            self.compiled_update = CompiledUpdate(list(zip(settings, self.optimizers, strict=False)), averages)

    def differentiate(self, data: Tensor, draws: StepDraws, step: int) -> tuple[list[Tensor], int]:
        """Losses of a share of a batch, divided by the number of shares, and their cost in forwards.

        The gradient of their sum is left in the weights.
        """
        objective, num_steps = self.experiment.objective, self.experiment.training.num_steps
        if self.compiled is not None:
            batch = self.compiled.objective.prepare(self.recipe, data, draws, step, num_steps)
            return [self.compiled(batch)], self.compiled.objective.units(batch)
        terms = objective(self.recipe, self.models, data, draws, step, num_steps)
        for weight in self.weights:  # what `zero_grad` of the optimizers does, in less time
            weight.grad = None
        beside = () if terms.beside is None else (terms.beside,)
        losses = [loss / self.group.size for loss in (terms.loss, *beside)]
        sum(losses[1:], start=losses[0]).backward()
        return [loss.detach() for loss in losses], terms.forward_units

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The network's optimizer, and the companion's if there is one."""
        return [self.optimizer] if self.companion_optimizer is None else [self.optimizer, self.companion_optimizer]

    @property
    def averages(self) -> list[nn.Module]:
        """The averages of the network that there are, in the order of `decays`."""
        return [average for average in (self.average, self.predictor_average, self.target) if average is not None]

    def decays(self, step: int) -> list[float]:
        """Weight of the old average in the update of each of `averages` after `step`, 0-based."""
        training, rules = self.experiment.training, [self.experiment.ema]
        if self.predictor_rule is not None:
            rules.append(self.predictor_rule)
        decays = [rule.decay(step + 1, training.batch_size) for rule in rules]
        if self.target is not None:
            decays.append(self.experiment.objective.target_decay(self.recipe, step, training.num_steps))
        return decays

    def step(self, data: Tensor, draws: StepDraws, step: int) -> StepReport:
        """Move the weights once.

        Args:
            data: Clean examples of the whole batch.
            draws: Random numbers of the whole batch.
            step: Steps done before this one.

        Raises:
            TrialDiverged: Loss or gradient is not finite, in any process, and this learner waits. Weights, average and
                optimizer are as they were. Every process raises it, because all see the same sums.
        """
        own_data, own_draws = share_of(self.group, self.recipe.coupling, data, draws)
        losses, num_forwards = self.differentiate(own_data, own_draws, step)
        gradients = gradients_of(self.network)
        further = [] if self.companion is None else gradients_of(self.companion)
        # Not DistributedDataParallel: it wraps a network that is called once a step, by one name; here student and
        # teacher share it, and it may be compiled.
        # `full` and not `tensor`, whose copy to a GPU would wait for it.
        units = torch.full((), float(num_forwards), device=losses[0].device)
        self.group.add([*gradients, *further, *losses, units])
        loss, total = losses[0], sum(losses[1:], start=losses[0])
        # The first step sets up the optimizers' states.
        if self.compiled_update is not None and all(optimizer.state for optimizer in self.optimizers):
            norm, found = self.compiled_update(total, self.guard.found, self.decays(step))
            self._look(step, total, norm, found if self.waits else None)
        else:
            norm = nn.utils.get_total_norm(gradients)
            self._look(step, total, norm, ~torch.isfinite(total + norm) if self.waits else None)
            self._move(step)
        return StepReport(loss=loss, grad_norm=norm, forward_units=units)

    def _look(self, step: int, total: Tensor, norm: Tensor, is_broken: Tensor | None) -> None:
        """Have the guard look at a step; where it is known, and waited for, only at one that is not finite."""
        if is_broken is None:
            self.guard.look(step, total, norm)
        elif bool(is_broken):
            self.guard.look(step, total, norm)
            self.guard.check()

    def _move(self, step: int) -> None:
        """Move weights and averages, unless the guard has found something while nobody waited."""
        found = None if self.waits else self.guard.found
        for optimizer in self.optimizers:
            if found is not None:
                optimizer.found_inf = found  # type: ignore[attr-defined]
            optimizer.step()
        for average, decay in zip(self.averages, self.decays(step), strict=True):
            update_average(average, self.network, decay, found)


def gradients_of(module: nn.Module) -> list[Tensor]:
    """Gradients of the parameters that have one."""
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
