"""Reading the pickles of old archives without running what they say."""

from __future__ import annotations

import io
import pickle
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


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that looks up nothing but what arrays are made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _Refused(f"{module}.{name}")
        return super().find_class(*ALLOWED[module, name])


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
    try:
        content = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except _Refused as error:
        raise DataError(
            f"{where}: must hold arrays only, but asks for {error}. This is not the published file; do not use it."
        ) from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{where}: must be a readable pickle, but {type(error).__name__}: {error}.") from None
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
