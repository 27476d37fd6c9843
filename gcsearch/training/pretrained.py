"""Networks of other trainings that a training uses and leaves as they are: frozen predictors and teachers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from gcsearch.config import Experiment
from gcsearch.errors import CheckpointError, ConfigError
from gcsearch.files import model_file, supplied
from gcsearch.registry import spec
from gcsearch.science.couplings import Generator
from gcsearch.science.edm import EDMDenoiser
from gcsearch.science.objectives.denoising import Denoising
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import Process, VarianceExploding
from gcsearch.science.teachers import PublishedEDM, TrainedBefore
from gcsearch.training.checkpoint import load_checkpoint
from gcsearch.training.edm_import import load_edm


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A network of another training.

    Attributes:
        network: With its averaged weights, without gradient.
        make: What the network was trained to be, from a network, a process and a precision.
    """

    network: nn.Module
    make: Callable[[nn.Module, Process, str], ConsistencyFunction]

    def function(self, network: nn.Module, used_in: Experiment) -> ConsistencyFunction:
        """What the network, or `network` made of it, was trained to be, with the precision of `used_in`."""
        return self.make(network, used_in.process, used_in.training.precision)


def load_frozen(experiment: Experiment) -> Pretrained | None:
    """The frozen predictor that the coupling of `experiment` asks for, if it does.

    Raises:
        CheckpointError: It cannot be read, or its data have another shape or its process is another one.
    """
    coupling = experiment.coupling
    if not isinstance(coupling, Generator) or coupling.checkpoint is None:
        return None
    return load_pretrained(coupling.checkpoint, experiment, "a frozen predictor")


def load_teacher(experiment: Experiment, *, may_be_untrained: bool = False) -> Pretrained | None:
    """The teacher that the objective of `experiment` asks for, if it does.

    Args:
        experiment: The training that uses it.
        may_be_untrained: Whether a teacher that has yet to be trained may have random weights instead.

    Raises:
        CheckpointError: It cannot be read, is no denoiser, or its data have another shape or its process is another
            one.
    """
    teacher, stage = experiment.objective.teacher, experiment.teacher_stage
    if stage is not None:
        path = supplied(stage.model_name) or stage.model_path
        if may_be_untrained and not path.is_file():
            network = stage.new_network(seed=0).requires_grad_(False)
            return Pretrained(network=network, make=stage.objective.function)
        return load_pretrained(str(path), experiment, "a teacher")
    if isinstance(teacher, PublishedEDM):
        return _published(teacher, experiment)
    if isinstance(teacher, TrainedBefore):
        return load_pretrained(teacher.path, experiment, "a teacher", must_denoise=True)
    return None


def _published(teacher: PublishedEDM, experiment: Experiment) -> Pretrained:
    """Teacher from a checkpoint of EDM's code."""
    found = load_edm(supplied(teacher.path) or Path(teacher.path))
    check_shape(teacher.path, "a teacher", found.event_shape, experiment)
    process = experiment.process
    if not isinstance(process, VarianceExploding) or process.sigma_data != found.sigma_data:
        raise CheckpointError(
            f"{teacher.path}: a teacher of EDM must have the process 've' with sigma_data = {found.sigma_data}, got "
            f"{spec(process)}."
        )

    def make(network: nn.Module, process: Process, precision: str) -> ConsistencyFunction:
        return EDMDenoiser(network, process, found.sigma_data, precision)

    return Pretrained(network=found.module, make=make)


def check_shape(name: str, role: str, event_shape: tuple[int, ...], experiment: Experiment) -> None:
    """Nothing, if a network for examples of a shape is one for `experiment`.

    Raises:
        CheckpointError: It is not.
    """
    if event_shape != experiment.data.event_shape:
        raise CheckpointError(
            f"{name}: {role} must be trained on examples of shape {experiment.data.event_shape}, got {event_shape}."
        )


def start_from(network: nn.Module, teacher: nn.Module) -> None:
    """Give a network the weights of the teacher; its layers for further conditions, if any, stay as they are.

    Raises:
        CheckpointError: They are other networks.
    """
    try:
        own = {name: value for name, value in network.state_dict().items() if name.startswith("further.")}
        network.load_state_dict(own | teacher.state_dict())
    except RuntimeError:
        raise CheckpointError(
            "objective.teacher: must have the network of the experiment, whose training starts with its weights, got "
            "another one. Give both the same network."
        ) from None


def load_pretrained(name: str, experiment: Experiment, role: str, *, must_denoise: bool = False) -> Pretrained:
    """Network of a checkpoint or an export, for use in a training of `experiment`.

    Args:
        name: The file or folder, as the component names it.
        experiment: The training that uses it.
        role: What it is there, for messages.
        must_denoise: Whether it must be a denoiser.

    Raises:
        CheckpointError: It cannot be read, or its data have another shape or its process is another one, or it is no
            denoiser where it must be one.
    """
    config, weights = _read(supplied(name) or model_file(Path(name)))
    try:
        theirs = Experiment.from_dict(config, source=name)
    except ConfigError as error:
        raise CheckpointError(f"{name}: holds a recipe that this version of gcsearch cannot read: {error}") from None
    check_shape(name, role, theirs.data.event_shape, experiment)
    if theirs.process != experiment.process:
        raise CheckpointError(
            f"{name}: {role} must have the process {spec(experiment.process)}, got {spec(theirs.process)}."
        )
    network = theirs.new_network(seed=0)
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise CheckpointError(f"{name}: the weights do not fit the network that its recipe names.") from None
    if must_denoise and not isinstance(theirs.objective, Denoising):
        raise CheckpointError(
            f"{name}: {role} must be trained with the objective 'denoising', got '{theirs.objective.name}'."
        )
    return Pretrained(network=network.requires_grad_(False), make=theirs.objective.function)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Recipe and averaged weights of a checkpoint or of the weights file of an export."""
    if path.suffix != ".safetensors":
        checkpoint = load_checkpoint(path)
        return checkpoint.config, checkpoint.average
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return json.loads(metadata["config"]), load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: is not the weights file of an export ({error}). Export it again.") from None


def weights_sha256(network: nn.Module) -> str:
    """Digest of all weights: equal if and only if names, shapes and values are."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
