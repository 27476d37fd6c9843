"""A diagnosis in a folder of its own: every finished arm is a file, so an interrupted one goes on where it was."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gcsearch.files import write_text
from gcsearch.training.diagnosis import COUPLINGS, Diagnosis, Row, coupling_named
from gcsearch.training.pretrained import load_frozen, load_teacher, weights_sha256


def run_diagnosis(
    diagnosis: Diagnosis,
    couplings: Sequence[str],
    seeds: Sequence[int],
    directory: Path,
    *,
    on_start: Callable[[str, int], None] = lambda *_: None,
    on_arm: Callable[[str, int, bool], None] = lambda *_: None,
) -> list[Row]:
    """Rows of all arms, each measured once: an arm in `directory` is read if its recipe and settings are these.

    Args:
        diagnosis: Measures an arm.
        couplings: Names of the couplings.
        seeds: Seeds of every coupling.
        directory: Gets ``arms/<coupling>_<seed>.json``; a file of another recipe or other settings is replaced.
        on_start: Told coupling and seed before every arm.
        on_arm: Told coupling, seed and whether the arm was read, after every arm.
    """
    rows: list[Row] = []
    # Seed by seed, so that an interrupted diagnosis has pairs to compare.
    for seed in seeds:
        for coupling in sorted(couplings, key=COUPLINGS.index):
            on_start(coupling, seed)
            path = directory / "arms" / f"{coupling}_{seed}.json"
            identity = arm_identity(diagnosis, coupling, seed)
            known = _read(path, identity)
            found = diagnosis.arm(coupling, seed) if known is None else known
            if known is None:
                content = {**identity, "rows": [dataclasses.asdict(row) for row in found]}
                write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
            rows += found
            on_arm(coupling, seed, known is not None)
    return rows


def arm_identity(diagnosis: Diagnosis, coupling: str, seed: int) -> dict[str, Any]:
    """What the rows of an arm depend on."""
    experiment = dataclasses.replace(
        diagnosis.experiment, coupling=coupling_named(coupling, diagnosis.experiment), seed=seed
    )
    weights, frozen, teacher = diagnosis.weights, load_frozen(experiment), load_teacher(experiment)
    return {
        "gcsearch": version("gcsearch"),
        "fingerprint": experiment.fingerprint,
        "settings": dataclasses.asdict(diagnosis.settings),
        "weights_sha256": None if weights is None else weights_sha256(weights.network),
        "frozen_sha256": None if frozen is None else weights_sha256(frozen.network),
        "teacher_sha256": None if teacher is None else weights_sha256(teacher.network),
    }


def _read(path: Path, identity: dict[str, Any]) -> list[Row] | None:
    """Rows of a file of this identity; None if there is none, or it is another's or not readable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**row) for row in content.pop("rows")]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return rows if content == identity else None
