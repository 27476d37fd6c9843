"""Checkpoints: one file that holds all state of a training, written atomically."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from gcsearch.config import Experiment
from gcsearch.errors import CheckpointError
from gcsearch.files import replacing

FORMAT: Final = 1


@dataclass(kw_only=True)
class Checkpoint:
    """All state of a training, as plain values and tensors.

    The position of the data and of every random stream follows from `step`, so neither is stored.

    Attributes:
        fingerprint: Of the experiment; guards against resuming another one.
        config: The experiment as plain data.
        step: Optimizer steps done.
        network: State of the online network.
        average: State of the averaged network.
        optimizer: State of the optimizer.
        results: Results reported so far, as plain data: a driver that died before it recorded them gets them again.
        counters: Times, costs and running sums.
        predictor_average: State of the average that generates end points, empty if the coupling has none of its own.
        frozen_sha256: Digest of the frozen predictor's weights, if there is one. They stay in their own file, which
            must not change between two parts of a training.
        teacher_sha256: The same of the objective's teacher.
        target: State of the average that the student matches, empty if the objective keeps none.
        companion: State of the module that the objective trains beside the network, empty if there is none.
        companion_optimizer: State of its optimizer, likewise.
    """

    fingerprint: str
    config: dict[str, Any]
    step: int
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    results: list[dict[str, Any]]
    counters: dict[str, float]
    predictor_average: dict[str, Tensor] = field(default_factory=dict)
    frozen_sha256: str | None = None
    teacher_sha256: str | None = None
    target: dict[str, Tensor] = field(default_factory=dict)
    companion: dict[str, Tensor] = field(default_factory=dict)
    companion_optimizer: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write to `path`; a crash leaves the old file or the new one, never half of one.

        Raises:
            OSError: It cannot be written: no room, or no permission.
        """
        content = {"format": FORMAT, **{name: getattr(self, name) for name in self.__dataclass_fields__}}
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            # torch raises an error of its own, which does not say why the file could not be written.
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(path)) from None
            raise


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint. Runs no code from the file.

    Raises:
        CheckpointError: Missing, damaged, or of another format.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint.") from None
    except Exception as error:  # a damaged pickle raises almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is not a readable checkpoint ({reason}). Remove it to start again.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint of this version of gcsearch (format {FORMAT}).")
    content.pop("format")
    try:
        return Checkpoint(**content)
    except TypeError:
        raise CheckpointError(f"{path}: is not a complete checkpoint. Remove it to start again.") from None


def load_own_checkpoint(path: Path, experiment: Experiment, device: torch.device | str = "cpu") -> Checkpoint | None:
    """Read the checkpoint that a training of `experiment` left, if there is one.

    Raises:
        CheckpointError: It cannot be read, or belongs to another experiment.
    """
    if not path.exists():
        return None
    checkpoint = load_checkpoint(path, device)
    if checkpoint.fingerprint != experiment.fingerprint:
        raise CheckpointError(
            f"{path}: was written for the experiment {checkpoint.fingerprint[:12]}, this one is "
            f"{experiment.fingerprint[:12]}. Use another folder, or the old values."
        )
    return checkpoint


def copy_checkpoint(source: Path, target: Path) -> None:
    """Atomic copy of a checkpoint file."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def plain_result(result: Any) -> dict[str, Any]:
    """A result as checkpoints store it."""
    return asdict(result)
