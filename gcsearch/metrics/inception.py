"""Features that papers report: torch-fidelity's Inception v3 with the weights of the original TensorFlow graph."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from gcsearch.errors import WeightsError
from gcsearch.files import replacing, supplied
from gcsearch.findings import Finding
from gcsearch.metrics.features import Extractor, extractors

VARIABLE: Final = "GCSEARCH_INCEPTION"
"""Environment variable that names the file of weights."""

FILE_NAME: Final = "weights-inception-2015-12-05-6726825d.pth"
FILE_BYTES: Final = 95_628_359
SHA256: Final = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the published file; its name ends with the first eight digits."""

TIMEOUT_SECONDS: Final = 30
CHUNK: Final = 32
"""Images at once: each takes about 20 MB at 299 x 299."""


@extractors.register("inception")
@dataclass(frozen=True, kw_only=True)
class InceptionExtractor(Extractor):
    """Last pooling layer (2,048 numbers) of Inception v3, `inception-v3-compat` of torch-fidelity; RGB images only.

    Grey images are refused rather than repeated three times: the papers that report grey FID do not agree on how, and
    the grey data sets have extractors of their own.

    Attributes:
        weights: File of the weights. Empty: ``$GCSEARCH_INCEPTION``, or where torch-fidelity keeps its copy, downloaded
            from the same address if it is missing.
    """

    weights: str = ""
    has_classes = True

    @property
    def identity(self) -> str:
        return f"inception@{self._sha256()[:12]}"

    def accepts(self, event_shape: tuple[int, ...]) -> None:
        if len(event_shape) != 3 or event_shape[0] != 3:
            raise ValueError(
                f"extractor 'inception': examples must be RGB images of shape [3, H, W], got {list(event_shape)}. "
                "Set evaluation.extractor to 'auto' or to one made for this data"
            )

    def prepare(self) -> None:
        _network(self._path())

    def load(self, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
        device = torch.device(device)
        # channels_last takes 0.6 of the time on a CPU and changes features by 4e-6.
        network = _network(self._path()).to(device, memory_format=torch.channels_last)

        def features(images: Tensor) -> Tensor:
            with _exact_convolutions(device):
                return torch.cat([network(chunk)[0] for chunk in torch.split(images, CHUNK)])

        return features

    def classify(self, features: Tensor) -> Tensor:
        # Without the bias, as the original inception score and torch-fidelity have it.
        return features @ _state(self._path())["fc.weight"].T

    def files(self) -> dict[str, Path]:
        named = self._named()
        return {self._supply_name: hub_path() if named is None else named}

    @property
    def _supply_name(self) -> str:
        return f"weights of the extractor inception {self.weights}"

    def _named(self) -> Path | None:
        """File that the user has named."""
        named = self.weights or os.environ.get(VARIABLE)
        return Path(named).expanduser() if named else None

    def _path(self) -> Path:
        path = supplied(self._supply_name) or self._named()
        if path is None:
            return _published_file()
        if not path.is_file():
            where = "--inception-weights" if self.weights else VARIABLE
            raise WeightsError(
                f"{where}: must name the file {FILE_NAME}, but there is no file {path}. {_instructions()}"
            )
        return path

    def _sha256(self) -> str:
        path = self._path()
        status = path.stat()
        return _file_sha256(path, status.st_size, status.st_mtime_ns)


def check_weights() -> Finding:
    """Whether the weights are here. Downloads nothing."""
    named = os.environ.get(VARIABLE)
    path = Path(named).expanduser() if named else hub_path()
    if not path.is_file():
        return Finding(
            name="Inception",
            state="broken" if named else "missing",
            found=f"no file {path}",
            advice=f"Only scores that papers report need it (--extractor inception). {_instructions()}",
        )
    status = path.stat()
    if _file_sha256(path, status.st_size, status.st_mtime_ns) != SHA256:
        found = f"{path} is not the published file"
        return Finding(name="Inception", state="broken", found=found, advice=_instructions())
    return Finding(name="Inception", state="ok", found=str(path))


def hub_path() -> Path:
    """Where torch-fidelity keeps the weights it has downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME


def _published_file() -> Path:
    """The published weights, downloaded if need be, with their hash checked."""
    path = hub_path()
    if not path.is_file():
        _download(path)
    status = path.stat()
    if _file_sha256(path, status.st_size, status.st_mtime_ns) != SHA256:
        raise WeightsError(f"{path}: must have the sha256 {SHA256}, but has another. Remove it, or {_instructions()}")
    return path


def _download(path: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    try:
        with (
            replacing(path) as temporary,
            urllib.request.urlopen(URL_INCEPTION_V3, timeout=TIMEOUT_SECONDS) as answer,
            temporary.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise WeightsError(
            f"extractor 'inception': its weights must be on this machine, but are not, and the download failed "
            f"({error}). {_instructions()}"
        ) from None


def _instructions() -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return (
        f"Fetch {URL_INCEPTION_V3} ({FILE_BYTES:,} bytes, sha256 {SHA256}) and put it at {hub_path()}, or name its "
        f"place with {VARIABLE}=PATH or `gcsearch evaluate --inception-weights PATH`."
    )


@lru_cache(maxsize=8)
def _file_sha256(path: Path, size: int, modified_ns: int) -> str:
    """sha256 of a file; size and time are there so that a changed file is read again."""
    del size, modified_ns
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> dict[str, Tensor]:
    """State of the network. Runs no code from the file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path}: is not a readable file of weights ({reason}). {_instructions()}") from None
    if not isinstance(state, dict) or not isinstance(state.get("fc.weight"), Tensor):
        raise WeightsError(f"{path}: must be the state of torch-fidelity's Inception v3, but is not. {_instructions()}")
    return state


def _network(path: Path) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Its constructor unpickles whatever it is given, so it gets bytes of our own, of tensors that were read safely.
    buffer = io.BytesIO()
    torch.save(_state(path), buffer)
    buffer.seek(0)
    with torch.random.fork_rng(devices=[]):  # it also initialises what it then overwrites
        try:
            return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer)
        except (RuntimeError, TypeError, AttributeError):
            raise WeightsError(
                f"{path}: must be the state of torch-fidelity's Inception v3, but its tensors do not fit. "
                f"{_instructions()}"
            ) from None


def _exact_convolutions(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """On NVIDIA GPUs, no TF32, which keeps three digits: a score must not depend on the device."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
