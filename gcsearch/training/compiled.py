"""Loss and gradient of a training step as one compiled graph."""

from __future__ import annotations

import re
from types import FunctionType
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from gcsearch.errors import ConfigError
from gcsearch.science.couplings import Generator
from gcsearch.science.objectives import Models, PreparedBatch, Recipe, TensorObjective
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
        # Graphs are counted by code object, and all trainings of a process would share one limit.
        own = FunctionType(run.__code__.replace(), globals(), run.__name__, closure=run.__closure__)
        self.run = torch.compile(own, fullgraph=True)

    def __call__(self, batch: PreparedBatch) -> Tensor:
        """Mean loss; its gradient replaces any that the weights had.

        Raises:
            ConfigError: A component cannot be compiled.
        """
        if isinstance(self.coupling, Generator) and self.coupling.mu_end is not None:
            torch._dynamo.maybe_mark_dynamic(batch.chosen, 0)
        from torch._dynamo.exc import Unsupported  # a second to import, which only compiled steps need

        try:
            gradients, loss = cast(tuple[dict[str, Tensor], Tensor], self.run(batch))
        except Unsupported as error:
            places = re.findall(r'File "(.+?)", line (\d+)', str(error))
            place = f" at {':'.join(places[-1])}" if places else ""
            raise ConfigError(
                f"training.compile must be false with this recipe, got true: PyTorch cannot make one graph of its step "
                f"({str(error).splitlines()[0]}{place})."
            ) from error
        for name, weight in self.weights.items():
            weight.grad = gradients[name]
        return loss


class _Loss(nn.Module):
    """The objective as a module whose weights can be given."""

    def __init__(self, objective: TensorObjective, recipe: Recipe, models: Models) -> None:
        super().__init__()
        self.objective, self.recipe, self.models = objective, recipe, models
        self.network, self.companion = models.online.network, models.companion

    def forward(self, batch: PreparedBatch) -> Tensor:
        return self.objective.loss(self.recipe, self.models, batch)
