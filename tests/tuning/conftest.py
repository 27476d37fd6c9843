"""A small study on the digits, as files in a temporary folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcsearch.tuning.spec import StudySpec, load_study

EXPERIMENT = """\
name: tiny
data: {name: digits}
network: {name: mlp, width: 16}
timesteps: {name: fixed, num_levels: 20}
coupling: {name: generator, mu: 0.5, predictor: ema}
optimizer: {name: lion, lr: 5e-4}
training: {num_images: 6_400, batch_size: 64}
evaluation: {every_images: 800, num_samples: 64, metrics: [fid]}
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a study file (keyword: section as YAML or as data) beside `experiments/tiny.yaml`."""

    def write(text: str | None = None, *, experiment: str = EXPERIMENT, **sections: Any) -> Path:
        (tmp_path / "experiments").mkdir(exist_ok=True)
        (tmp_path / "experiments" / "tiny.yaml").write_text(experiment)
        if text is None:
            sections = {"experiment": "tiny", "space": {"coupling.mu": {"min": 0.0, "max": 1.0}}} | sections
            lines = [f"{key}: {json.dumps(value)}" for key, value in sections.items() if value is not ...]
            text = "\n".join(lines) + "\n"
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def make_study(study_file: Callable[..., Path]) -> Callable[..., StudySpec]:
    """Loads such a study."""

    def make(text: str | None = None, **sections: Any) -> StudySpec:
        return load_study(study_file(text, **sections))

    return make
