"""Fixtures that every test may use."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

from gcsearch.science import perceptual
from gcsearch.science.perceptual import HEADS, VGG16

torch.set_num_threads(1)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Processes of ``-n auto``: one for each core for the whole fast suite, else this one alone.

    Slow tests start clusters that want the cores themselves, and for a few files new processes cost more than they
    save.
    """
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return None if is_whole and "not slow" in config.option.markexpr else 0


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded generator: tests draw from it, never from the global one."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def unchanged_global_rng() -> Iterator[None]:
    """Fails the test if it moved the global generator of torch or numpy.

    Python's own is left out: beartype draws from it when it picks the list entries to check.
    """
    before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - the state to be guarded
    yield
    torch.testing.assert_close(torch.get_rng_state(), before[0], rtol=0, atol=0)
    after = np.random.get_state()  # noqa: NPY002
    assert after[2:] == before[1][2:]
    assert (after[1] == before[1][1]).all()


@pytest.fixture
def plain_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches the check of shapes off: torch.compile cannot trace it, and would silently run the functions eagerly."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    modules = [module for name, module in sys.modules.items() if name.startswith("gcsearch.science")]
    for kind in {value for module in modules for value in vars(module).values() if isinstance(value, type)}:
        for name, method in list(vars(kind).items()):  # of an object that is made inside a graph
            if getattr(method, "__globals__", {}).get("__name__") == "jaxtyping._decorator":
                monkeypatch.setattr(kind, name, method.__wrapped__)


@pytest.fixture
def compile_counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Makes backends of torch.compile that count the graphs they are given."""
    from torch._dynamo.testing import CompileCounterWithBackend

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield CompileCounterWithBackend
    torch._dynamo.reset()


@pytest.fixture
def golden() -> Callable[[str], dict[str, Any]]:
    """Reads ``tests/golden/<name>.json``: numbers and where they come from."""
    folder = Path(__file__).parent / "golden"

    def read(name: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        return values

    return read


@pytest.fixture(scope="session")
def lpips_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes random weights of the distance ``lpips``, laid out as the published files; few channels unless asked."""

    @cache
    def write(widths: tuple[int, ...] = (4, 6, 6, 8, 8)) -> Path:
        folder, stream = tmp_path_factory.mktemp("lpips"), torch.Generator().manual_seed(0)
        convolutions, channels = {"classifier.0.weight": torch.zeros(2)}, 3
        for layers, width in zip(perceptual.BLOCKS, widths, strict=True):
            for layer in layers:
                weight = torch.randn(width, channels, 3, 3, generator=stream)
                convolutions[f"features.{layer}.weight"] = (2 / (9 * channels)) ** 0.5 * weight
                convolutions[f"features.{layer}.bias"] = 0.1 * torch.randn(width, generator=stream)
                channels = width
        heads = [torch.rand(1, width, 1, 1, generator=stream) for width in widths]
        named_heads = {f"lin{block}.model.1.weight": head for block, head in enumerate(heads)}
        for content, file in ((convolutions, VGG16), (named_heads, HEADS)):
            # The published files are older than torch's present format.
            torch.save(content, folder / file.name, _use_new_zipfile_serialization=False)
        return folder

    return write


@pytest.fixture
def lpips_weights(lpips_files: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Declares the files in a folder the published ones, and says in the environment where they are."""

    def use(folder: Path | None = None) -> Path:
        folder = folder or lpips_files()
        for constant, file in (("VGG16", VGG16), ("HEADS", HEADS)):
            digest = hashlib.sha256((folder / file.name).read_bytes()).hexdigest()
            monkeypatch.setattr(perceptual, constant, dataclasses.replace(file, sha256=digest))
        monkeypatch.setenv(perceptual.ENVIRONMENT, str(folder))
        return folder

    return use
