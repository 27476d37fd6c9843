"""Tiny trainings: a quarter of a second each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gcsearch.config import Experiment
from gcsearch.data import Examples

DIGITS: dict[str, Any] = {
    "name": "tiny",
    "data": "digits",
    "network": {"name": "mlp", "width": 16},
    "process": {"name": "ve", "sigma_data": 0.75},
    "optimizer": {"name": "lion", "lr": 3e-3},
    "ema": {"name": "power_warmup", "period": 1},
    "training": {"num_images": 2_000, "batch_size": 32},
    "evaluation": {"every_images": 500, "num_samples": 64, "metrics": ["fid"]},
}
POINTS: dict[str, Any] = DIGITS | {
    "data": {"name": "gaussians_2m2m", "num_points": 300},
    "optimizer": {"name": "adam", "lr": 1e-2},
}


@pytest.fixture(autouse=True, scope="module")
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Reference features are cached for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tiny() -> Callable[..., Experiment]:
    """Makes a tiny experiment on digits; mappings are merged into the section, everything else replaces it."""

    def make(base: dict[str, Any] = DIGITS, **sections: Any) -> Experiment:
        data = dict(base)
        for key, value in sections.items():
            same = isinstance(value, dict) and isinstance(data.get(key), dict)
            merge = same and value.get("name", data[key].get("name")) == data[key].get("name")
            data[key] = {**data[key], **value} if merge else value
        return Experiment.from_dict(data)

    return make


@pytest.fixture
def points() -> dict[str, Any]:
    """The base of tiny experiments on points."""
    return POINTS


@pytest.fixture(scope="session")
def digits() -> Examples:
    """The digits, loaded once."""
    return Experiment.from_dict(DIGITS).data.load()


@pytest.fixture
def cpp_compiler():
    """Skips without a C++ compiler, which torch.compile needs on a CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("torch.compile needs a C++ compiler")
