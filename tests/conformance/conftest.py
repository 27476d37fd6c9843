"""The marker `each(kind)`: run the test for a default `component` of each class of a kind."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest

import gcsearch.science
from gcsearch.registry import registries

for module in pkgutil.walk_packages(gcsearch.science.__path__, "gcsearch.science."):
    importlib.import_module(module.name)


@pytest.fixture(autouse=True)
def _weights(lpips_weights: Callable[..., Path]) -> None:
    """Small files in place of the published weights, so that the components that need them run."""
    lpips_weights()


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marker."""
    config.addinivalue_line("markers", "each(kind): run for a default `component` of each class of a kind")


@pytest.hookimpl(trylast=True)  # after the parameters of the test itself
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives the test its components."""
    for mark in metafunc.definition.iter_markers("each"):
        registry = registries[mark.args[0]]
        metafunc.parametrize("component", [pytest.param(registry[name](), id=name) for name in registry])
