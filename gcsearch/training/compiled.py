"""A training step as two compiled graphs: its loss and gradient, and what the gradient does to the weights.

Between the two, processes that share a batch add up their gradients.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from gcsearch.errors import ConfigError
from gcsearch.science.couplings import Generator
from gcsearch.science.objectives import Models, PreparedBatch, Recipe, TensorObjective
from gcsearch.science.optimizers import Optimizer, State
from gcsearch.science.perceptual import load_weights


class CompiledLoss:
    """Loss of a batch and its gradient: coupling, student, teacher, loss and backward pass in one graph.

    The graph serves all steps: levels and dropout seed are tensors, whatever the number of levels, and so are the rows
    that get a generated end point. A share of them that grows or falls (`mu_end`) is compiled for any number of rows; a
    share of 0, as outside of a coupling's window, has a graph of its own, without predictor.

    Args:
        objective: What is minimised.
        recipe: What it combines.
        models: Its networks. Weights of `online` and `companion` get a gradient; all weights may change between calls.
        num_shares: Number that loss and gradient are divided by: of the processes that share a batch.
    """

    def __init__(self, objective: TensorObjective, recipe: Recipe, models: Models, num_shares: int = 1) -> None:
        self.objective, self.coupling = objective, recipe.coupling
        module = _Loss(objective, recipe, models)
        self.weights: dict[str, Tensor] = dict(module.named_parameters())
        weights = self.weights

        def run(batch: PreparedBatch) -> tuple[dict[str, Tensor], Tensor]:
            def loss(given: dict[str, Tensor]) -> Tensor:
                return cast(Tensor, functional_call(module, given, (batch,))) / num_shares

            with torch.no_grad():  # no graph around the differentiation, which makes its own
                gradients, value = grad_and_value(loss)(weights)
            return gradients, value

        # They are read from a file. As a decorator it would import the compiler, which takes a second, everywhere.
        torch.compiler.assume_constant_result(load_weights)  # type: ignore[no-untyped-call]
        self.run = one_graph(run)

    def __call__(self, batch: PreparedBatch) -> Tensor:
        """Mean loss; its gradient replaces any that the weights had.

        Raises:
            ConfigError: A component cannot be compiled.
        """
        if isinstance(self.coupling, Generator) and self.coupling.mu_end is not None:
            torch._dynamo.maybe_mark_dynamic(batch.chosen, 0)
        gradients, loss = self.run(batch)
        for name, weight in self.weights.items():
            weight.grad = gradients[name]
        return cast(Tensor, loss)


class CompiledUpdate:
    """What a step does with its gradients: their norm, the optimizers' moves and the averages in one graph.

    The graph serves all steps: what depends on their number is a tensor. Weights, averages and the optimizers' states
    are the same tensors as without it, so that checkpoints fit both.

    Args:
        optimizers: Settings of each optimizer and the optimizer itself, which has made a step: that sets up its state.
            The norm is that of the first one's gradients.
        averages: Each average of weights, and the network that it is an average of.
    """

    def __init__(
        self,
        optimizers: Sequence[tuple[Optimizer, torch.optim.Optimizer]],
        averages: Sequence[tuple[nn.Module, nn.Module]],
    ) -> None:
        self.optimizers, self.averages = optimizers, averages
        self.counts = [0] * len(optimizers)
        self.counted: list[Tensor | None] = [None] * len(optimizers)
        rules = [settings for settings, _ in optimizers]
        # Where the numbers of each optimizer begin and end, after one for each average.
        bounds = [len(averages)]
        for rule in rules:
            bounds.append(bounds[-1] + len(rule.factors(1)))
        slices = [slice(*pair) for pair in pairwise(bounds)]

        def run(
            groups: list[tuple[list[nn.Parameter], list[Tensor], list[State]]],
            loss: Tensor,
            found: Tensor,
            numbers: Tensor,
        ) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                norm = nn.utils.get_total_norm(groups[0][1])
                found = torch.maximum(found, (~torch.isfinite(loss + norm)).to(found.dtype))
                moves, given = found == 0, numbers.unbind()

                def put(old: Tensor, new: Tensor) -> None:
                    old.copy_(torch.where(moves, new, old))

                for rule, own, group in zip(rules, slices, groups, strict=True):
                    for weight, gradient, state in zip(*group, strict=True):
                        value, changed = rule.moved(weight, gradient, state, given[own])
                        put(weight, value)
                        for name, new in changed.items():
                            put(state[name], new)
                        if "step" in state:
                            put(state["step"], state["step"] + 1)
                for rate, (average, network) in zip(given, averages, strict=False):
                    for kept, current in zip(average.parameters(), network.parameters(), strict=True):
                        put(kept, kept + rate * (current - kept))
                    for stored, latest in zip(average.buffers(), network.buffers(), strict=True):
                        stored.copy_(latest)
            return norm, found

        self.run = one_graph(run)

    def __call__(self, loss: Tensor, found: Tensor, decays: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Move everything by the gradients that the weights have, unless something is not finite.

        Args:
            loss: Loss of the step.
            found: 0, or 1 if an earlier step was not finite: then nothing moves, as if this one's loss or norm is not.
            decays: Weight of the old average, in [0, 1), of each average.

        Returns:
            Norm of the gradients, and `found` after this step.

        Raises:
            ConfigError: An optimizer cannot be compiled.
        """
        groups, numbers = [], [1 - decay for decay in decays]
        for index, (settings, optimizer) in enumerate(self.optimizers):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            states = [optimizer.state[weight] for weight in weights]
            groups.append((weights, [weight.grad for weight in weights], states))
            numbers += settings.factors(self._next(index, states, loss.device))
        given = torch.tensor(numbers).to(loss.device, non_blocking=True)
        norm, found = self.run(groups, loss, found, given)
        return norm, found

    def _next(self, index: int, states: list[State], device: torch.device) -> int:
        """Number of an optimizer's next step. Where the optimizer counts them, the first call waits for the device."""
        if "step" in states[0] and self.counted[index] is not states[0]["step"]:
            for state in states:
                state["step"] = state["step"].to(device)  # some optimizers keep it on the host
            self.counted[index] = states[0]["step"]
            self.counts[index] = int(states[0]["step"])
        self.counts[index] += 1
        return self.counts[index]


class _Loss(nn.Module):
    """The objective as a module whose weights can be given."""

    def __init__(self, objective: TensorObjective, recipe: Recipe, models: Models) -> None:
        super().__init__()
        self.objective, self.recipe, self.models = objective, recipe, models
        self.network, self.companion = models.online.network, models.companion

    def forward(self, batch: PreparedBatch) -> Tensor:
        return self.objective.loss(self.recipe, self.models, batch)


def one_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled as a whole; a call raises ConfigError if that cannot be done."""
    # Graphs are counted by code object, and all trainings of a process would share one limit.
    own = FunctionType(function.__code__.replace(), globals(), function.__name__, closure=function.__closure__)
    compiled = torch.compile(own, fullgraph=True)

    def call(*arguments: Any) -> Any:
        from torch._dynamo.exc import Unsupported  # a second to import, which only compiled steps need

        try:
            return compiled(*arguments)
        except Unsupported as error:
            places = re.findall(r'File "(.+?)", line (\d+)', str(error))
            place = f" at {':'.join(places[-1])}" if places else ""
            raise ConfigError(
                f"training.compile must be false with this recipe, got true: PyTorch cannot make one graph of its step "
                f"({str(error).splitlines()[0]}{place})."
            ) from error

    return call
