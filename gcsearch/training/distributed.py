"""Processes that train together: each treats a share of every batch, all move the same weights.

Every process draws the data and the random numbers of the whole batch, as one process would, and then takes its share
(`share_of`). Gradients are added up over the processes, so that each makes the step that one process would make, up to
the order of the additions. The trainer asks its `Group`, and is the same function in one process and in many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout

from gcsearch.science.couplings import Coupling
from gcsearch.science.dropout import seed_of_rows
from gcsearch.science.randomness import Share, StepDraws

T = TypeVar("T")


class WorkerLost(RuntimeError):  # noqa: N818 - what happened to another process, which is to blame
    """Another process of the training has ended or failed, so this one cannot go on."""


class Group:
    """The processes of one training. This class is a process alone; `TorchGroup` is several.

    Attributes:
        rank: Number of this process, 0-based. The first one scores and writes files.
        size: Processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process scores and writes files."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """This process's part of every batch."""
        return Share(index=self.rank, count=self.size)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point tensors by their sums over the processes, to the same bits in all of them."""

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """The first process's flags, in every process."""
        return flags

    def gather(self, value: T) -> list[T]:
        """The values of all processes in the first one, in the order of their ranks; nothing in the others."""
        return [value]

    def from_first(self, compute: Callable[[], T]) -> T:
        """What `compute` returns in the first process, in every process; the others wait and do not call it.

        Raises:
            WorkerLost: It raised in the first process, where its own error is raised.
        """
        return compute()


class TorchGroup(Group):
    """The processes of torch.distributed's default group, which the caller has set up.

    Args:
        device: Where this process trains, and so where its tensors are when they are sent.
        timeout: Longest time for which the hosts wait for each other in `agree`.

    Every method is called by all processes, in the same order, and so is the construction.
    """

    def __init__(self, device: torch.device | str, timeout: timedelta = default_pg_timeout) -> None:
        self.device = torch.device(device)
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        # What the hosts agree on before every step goes past the GPUs, which work on the steps before.
        with _together():
            self._hosts = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))

    def add(self, tensors: Sequence[Tensor]) -> None:
        # In one message: what a message costs does not grow with its size until it is large.
        message = torch.cat([tensor.flatten().float() for tensor in tensors])
        with _together():
            dist.all_reduce(message)
        parts = torch.split(message, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        message = torch.tensor(flags, dtype=torch.uint8)
        with _together():
            dist.broadcast(message, src=0, group=self._hosts)
            return tuple(bool(flag) for flag in message.tolist())

    def gather(self, value: T) -> list[T]:
        values: list[Any] | None = [None] * self.size if self.is_first else None
        with _together():
            dist.gather_object(value, values, dst=0)
        return values or []

    def from_first(self, compute: Callable[[], T]) -> T:
        message: list[Any] = [None, None]
        failure = None
        if self.is_first:
            try:
                message = [compute(), None]
            except Exception as error:  # raised below, once the others know
                failure, message = error, [None, f"{type(error).__name__}: {error}"]
        with _together():
            dist.broadcast_object_list(message, src=0, device=self.device)
        if failure is not None:
            raise failure
        if message[1] is not None:
            raise WorkerLost(f"the first process failed: {message[1]}")
        return cast(T, message[0])


@contextmanager
def _together() -> Iterator[None]:
    """Turns the error of a communication, whose text depends on the library below, into one that says what it means."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(f"another process of this training is gone ({str(error).splitlines()[0][:200]})") from error


def share_of(group: Group, coupling: Coupling, data: Tensor, draws: StepDraws) -> tuple[Tensor, StepDraws]:
    """This process's examples and random numbers, from those of the whole batch.

    The noise is arranged before it is dealt out, so that couplings which exchange it see the whole batch. The rows of a
    share are in the batch's random order; a process alone keeps everything as drawn.

    Args:
        group: The processes.
        coupling: The recipe's.
        data: Clean examples of the whole batch.
        draws: Random numbers of the whole batch.
    """
    if group.size == 1:
        return data, draws
    share = group.share
    rows = draws.selection[share.index :: share.count]
    own = dataclasses.replace(
        draws,
        noise=coupling.arrange(data, draws.noise)[rows],
        level_uniforms=draws.level_uniforms[rows],
        selection=torch.arange(len(rows), device=rows.device),
        dropout_seed=seed_of_rows(cast(int, draws.dropout_seed), rows),
        share=share,
    )
    return data[rows], own


def check_same_weights(group: Group, network: nn.Module) -> None:
    """Raise if the weights of the processes are no longer the same, which only a bug or broken hardware can cause.

    Compares a sum over each weight, to the last bit.
    """
    if group.size == 1:
        return
    sums = [value.double().sum().item() for value in network.state_dict().values()]
    if sums != group.from_first(lambda: sums):
        raise RuntimeError(
            f"process {group.rank} of {group.size}: the weights differ from those of the first process, though all "
            "have made the same steps."
        )
