"""Weights and settings of checkpoints in the format of EDM's code, without running anything in them.

The format is a pickle of a dict; its entry ``ema`` is a module whose class stands in the file as source code. Here
every such object becomes a `State`, which has the object's attributes and nothing of its class.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gcsearch.data.bounded import read_all
from gcsearch.data.unpickling import load_restricted
from gcsearch.errors import CheckpointError, DataError


@dataclass(slots=True)
class State:
    """What an object of the file had for attributes.

    Attributes:
        class_name: Its class, by name alone.
        values: Its attributes.
    """

    class_name: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def modules(self) -> dict[str, State]:
        """The modules directly inside, in their order."""
        return {name: module for name, module in self._part("_modules").items() if isinstance(module, State)}

    def tensors(self, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Name and value of all parameters and buffers, as in a module's state.

        Raises:
            ValueError: A module occurs more than once, so that this might have no end.
        """
        seen = set() if seen is None else seen
        if id(self) in seen:
            raise ValueError("a module of it occurs more than once")
        seen.add(id(self))
        for part in ("_parameters", "_buffers"):
            for name, value in self._part(part).items():
                if isinstance(value, Tensor):
                    yield f"{prefix}{name}", value
        for name, module in self.modules().items():
            yield from module.tensors(f"{prefix}{name}.", seen)

    def _part(self, name: str) -> dict[str, Any]:
        part = self.values.get(name)
        return dict(part) if isinstance(part, dict) else {}


class _Container(State):
    """A container of modules of PyTorch's own."""

    __slots__ = ()

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.class_name, self.values = "ModuleDict", dict(values)


def _object(meta: dict[str, Any]) -> State:
    """In place of EDM's function that runs ``meta["module_src"]``."""
    return State(str(meta["class_name"]), dict(meta["state"]))


def _storage(data: bytes) -> Any:
    """In place of PyTorch's function, which would unpickle freely."""
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its message has many lines
        raise ValueError("the data of a tensor must be numbers alone") from None


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """In place of PyTorch's function, which would let a tensor reach beyond its storage by making that larger."""
    dtype = storage.dtype
    untyped = storage._untyped_storage  # as in PyTorch's function: the public name warns
    held = untyped.nbytes() // dtype.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or 0 in size or max(last + 1, math.prod(size)) > held:
        raise ValueError(f"a tensor of shape {tuple(size)} is not within its data, {held} numbers")
    tensor: Tensor = torch.empty(0, dtype=dtype).set_(untyped, offset, size, stride)
    return tensor.clone(memory_format=torch.contiguous_format)


def _scalar(dtype: Any, data: bytes) -> Any:
    """A number of numpy, in place of numpy's function."""
    if dtype.hasobject:
        raise ValueError("a number must be one")
    return np.frombuffer(data, dtype, count=1)[0].item()


STAND_INS: Final[Mapping[tuple[str, str], Callable[..., Any]]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _object,
    ("torch.nn.modules.container", "ModuleDict"): _Container,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): OrderedDict,
    ("dnnlib.util", "EasyDict"): dict,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}
"""What such a file refers to besides arrays, and what is called here in its place."""


def read_pickle(path: Path) -> State:
    """The module under ``ema`` of a file.

    Raises:
        CheckpointError: It cannot be read, asks for anything but data, or has no such module.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            data = read_all(file, where)
        content = load_restricted(data, where, "tensors, numbers and EDM's modules", others=STAND_INS)
    except OSError as error:
        raise CheckpointError(f"{where}: must be readable, got: {error.strerror}.") from None
    except DataError as error:
        raise CheckpointError(str(error)) from None
    module = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(module, State):
        raise CheckpointError(f"{where}: must hold a network under 'ema', as the checkpoints of EDM's code do.")
    return module
