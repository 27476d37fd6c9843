"""gcsearch: find and prove the best recipe for consistency models with generator-augmented coupling.

Two doors for programs, which import what they need when they are called:

    gcsearch.load("exports/mu_schedule").sample(64, steps=2, seed=0)
    gcsearch.open_study("studies/mu_schedule").trials
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gcsearch.export import LoadedModel, StudyFrames

__version__ = "0.1.0"
__all__ = ["__version__", "load", "open_study"]


def load(path: str | Path, *, device: str = "cpu") -> LoadedModel:
    """A trained model, from the folder of an export or from a checkpoint file.

    Weights are read without running code. A recipe that lists modules under `imports` has them imported, from beside it
    too: read the first lines of a stranger's ``best.yaml``.

    Args:
        path: Folder or ``.pt`` file.
        device: Where it draws samples, e.g. ``cuda``. The latents are the same everywhere.

    Raises:
        CheckpointError: There is no model, or it is damaged.
    """
    from gcsearch.export import load_model

    return load_model(Path(path), device=device)


def open_study(study: str | Path) -> StudyFrames:
    """A study as pandas frames: one row a trial, one row a result.

    Args:
        study: Its folder, or its name in ``studies/``. The study may be running.

    Raises:
        StudyError: There is none.
    """
    from gcsearch.export import open_frames

    return open_frames(study)
