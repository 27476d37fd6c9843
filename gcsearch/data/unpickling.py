"""Reading pickles of others without running what they say."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

import numpy as np

from gcsearch.data.bounded import read_all
from gcsearch.errors import DataError

ALLOWED: Final = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),  # how Python 3 writes the bytes of an array under protocol 2
}
"""All that the pickle of a dict of arrays, numbers and texts refers to, and where numpy keeps it today."""


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something else than data."""


class _Restricted(pickle.Unpickler):
    """Unpickler that looks up nothing but what arrays are made of, and what stands in for a few other names."""

    def __init__(self, data: bytes, encoding: str, others: Mapping[tuple[str, str], Callable[..., Any]]) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self.others = others

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.others:
            return self.others[module, name]
        if (module, name) not in ALLOWED:
            raise _Refused(f"{module}.{name}")
        return super().find_class(*ALLOWED[module, name])


def load_restricted(
    data: bytes,
    where: str,
    only: str = "arrays",
    encoding: str = "ASCII",
    others: Mapping[tuple[str, str], Callable[..., Any]] | None = None,
) -> Any:
    """Content of a pickle; nothing in it is ever executed but numpy's makers of arrays and `others`.

    Args:
        data: The pickle.
        where: File, for messages.
        only: What it may hold, for messages.
        encoding: Of the texts of Python 2.
        others: Module and name of what it may also refer to, and what is called in its place.

    Raises:
        DataError: The pickle refers to anything else, or is damaged.
    """
    try:
        return _Restricted(data, encoding, others or {}).load()
    except _Refused as error:
        raise DataError(
            f"{where}: must hold {only} only, but asks for {error}. This is not the published file; do not use it."
        ) from None
    except Exception as error:  # a damaged pickle may raise anything
        told = str(error).rstrip(".")
        raise DataError(f"{where}: must be a readable pickle, but {type(error).__name__}: {told}.") from None


def load_arrays(file: IO[bytes], where: str) -> dict[str, Any]:
    """Content of a pickled dict of arrays; nothing else in it is ever executed.

    Args:
        file: The pickle, as Python 2 or 3 wrote it.
        where: File, for messages.

    Returns:
        The dict, with its keys as text.

    Raises:
        DataError: The pickle refers to anything but numpy arrays, claims more than it holds, or is damaged.
    """
    data = read_all(file, where)
    content = load_restricted(data, where, encoding="bytes")
    if not isinstance(content, dict):
        raise DataError(f"{where}: must hold a dict of arrays, got {type(content).__name__}.")
    for value in content.values():
        # A few bytes can ask for an array of any size, filled with whatever is in memory.
        if isinstance(value, np.ndarray) and value.nbytes > len(data):
            raise DataError(
                f"{where}: must hold its arrays, but asks for one of {value.nbytes:,} bytes in a file of "
                f"{len(data):,}. This is not the published file; do not use it."
            )
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}
