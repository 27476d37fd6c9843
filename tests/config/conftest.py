"""An experiment from the text of a file, or the message that it is answered with."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gcsearch.config import Experiment, load_experiment
from gcsearch.errors import ConfigError


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Experiment]:
    """Loads the text of an experiment file, with overrides."""

    def from_text(text, assignments=()):
        path = tmp_path / "file.yaml"
        path.write_text(text, encoding="utf-8")
        return load_experiment(path, assignments)

    return from_text


@pytest.fixture
def message(load: Callable[..., Experiment]) -> Callable[..., str]:
    """Loads such a text, which must fail, and gives the message, with FILE for the path."""

    def of(text, assignments=()):
        with pytest.raises(ConfigError) as error:
            load(text, assignments)
        return re.sub(r"\S*/file\.yaml", "FILE", str(error.value))

    return of
