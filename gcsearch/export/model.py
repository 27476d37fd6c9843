"""A trained model as programs use it: read from an export or a checkpoint, and sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gcsearch.config import Experiment, build, load_experiment
from gcsearch.errors import CheckpointError, ConfigError
from gcsearch.metrics.evaluate import generate
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.samplers import OneStep, Sampler
from gcsearch.training import load_checkpoint

RECIPE: Final = "best.yaml"
WEIGHTS: Final = "model.safetensors"

TWO_STEP_LEVEL: Final = 0.821
"""Level of the second step, iCT's choice for CIFAR-10 with sigma_data 0.5."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A trained model that can be sampled.

    Attributes:
        experiment: How it was trained.
        function: Its consistency function, with the averaged weights.
        device: Where it draws.
    """

    experiment: Experiment
    function: ConsistencyFunction
    device: str = "cpu"

    def sample(
        self,
        num: int = 64,
        *,
        steps: int = 1,
        levels: Sequence[float] | None = None,
        gamma: float | None = None,
        seed: int | None = None,
    ) -> torch.Tensor:
        """The first `num` samples of the common latents of `seed`: what ``gcsearch sample`` draws.

        Sample i depends on seed and i only, so a larger `num` adds samples and changes none.

        Args:
            num: Samples, at least 1.
            steps: Network evaluations per sample, at least 1; ignored if `levels` are given.
            levels: Levels of the evaluations after the first: see `steps_sampler`.
            gamma: Share of the noise that is fresh at each of them: see `steps_sampler`.
            seed: Seed, at least 0. Default: that of the evaluations in training.

        Returns:
            uint8 images (num, C, H, W), or float32 points (num, dimension), on the CPU.

        Raises:
            ConfigError: An argument means nothing.
        """
        if num < 1:
            raise ConfigError(f"num must be at least 1, got {num}.")
        if seed is not None and seed < 0:
            raise ConfigError(f"seed must be at least 0, got {seed}.")
        return self.draw(
            num,
            seed=self.experiment.evaluation.seed if seed is None else seed,
            sampler=steps_sampler(self.experiment, steps, levels, gamma),
        )

    def draw(self, num: int, *, seed: int, sampler: Sampler) -> torch.Tensor:
        """Samples as `sample` returns them, by a sampler of one's own."""
        data = self.experiment.data
        is_image = len(data.event_shape) == 3
        source = data.draw_source
        return generate(self.function, sampler, 0, num, seed=seed, source=source, is_image=is_image, device=self.device)


def load_model(path: Path, *, device: str = "cpu") -> LoadedModel:
    """Model from the folder of an export or from a checkpoint file.

    Runs no code from either, except the modules that the recipe itself lists under `imports`.

    Raises:
        CheckpointError: There is no model, or it is damaged.
    """
    if path.is_dir():
        if not (path / WEIGHTS).is_file() or not (path / RECIPE).is_file():
            raise CheckpointError(f"{path}: is not an export; it must hold {RECIPE} and {WEIGHTS}.")
        experiment = load_experiment(path / RECIPE)
        try:
            weights = load_file(path / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path / WEIGHTS}: cannot be read ({error}). Export the study again.") from None
    else:
        checkpoint = load_checkpoint(path)
        experiment = Experiment.from_dict(checkpoint.config, source=str(path))
        weights = checkpoint.average
    network = experiment.new_network(seed=0)
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise CheckpointError(f"{path}: the weights do not fit the network that the recipe names.") from None
    return LoadedModel(
        experiment=experiment,
        function=experiment.function(network.to(device)),
        device=device,
    )


def steps_sampler(
    experiment: Experiment, steps: int, levels: Sequence[float] | None = None, gamma: float | None = None
) -> Sampler:
    """Sampler of `steps` network evaluations.

    Args:
        experiment: Gives the process; for one step without levels its own sampler is not consulted.
        steps: Evaluations per sample; ignored if `levels` are given.
        levels: Levels of the evaluations after the first, decreasing. By default 0.821 for two steps, and the inner
            points of the process's grid for more.
        gamma: Share of the noise that is fresh at each level, in [0, 1], for a network that is told two levels: the
            sampler ``gamma``, from two steps on. By default the sampler is ``multistep``.

    Raises:
        ConfigError: No steps, levels that are not decreasing or lie outside the process, or a gamma that means nothing.
    """
    process = experiment.process
    if gamma is not None:
        if not experiment.objective.trains_trajectory:
            raise ConfigError(
                f"gamma must be left out for a network that is told one level, as the objective "
                f"'{experiment.objective.name}' trains it, got {gamma:g}. The objective ctm tells it two."
            )
        if steps == 1 and levels is None:
            raise ConfigError(f"gamma must be left out for one step, got {gamma:g}. Ask for two steps or more.")
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}.")
    if levels is None:
        if steps == 1:
            return OneStep()
        levels = (TWO_STEP_LEVEL,) if steps == 2 else tuple(process.grid(steps + 1).tolist()[-2:0:-1])
    elif not levels:
        raise ConfigError("levels must not be empty. Leave them out for one step.")
    if not process.sigma_min < min(levels) <= max(levels) < process.sigma_max:
        raise ConfigError(
            f"levels must lie between sigma_min = {process.sigma_min} and sigma_max = {process.sigma_max}, got "
            f"{list(levels)}."
        )
    rule = {"name": "multistep"} if gamma is None else {"name": "gamma", "gamma": gamma}
    sampler: Sampler = build("sampler", rule | {"levels": list(levels)})
    return sampler
