"""Fixtures that every test may use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

torch.set_num_threads(1)


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
