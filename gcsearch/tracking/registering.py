"""Exports in MLflow's model registry, where other programs find them by name and alias."""

from __future__ import annotations

import hashlib
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from gcsearch.errors import TrackingError
from gcsearch.tracking.store import Store, check_uri

WEIGHTS_TAG: Final = "gcsearch.weights_sha256"
"""Tag of a version: which weights it holds, so that the same ones are not registered twice."""


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """Name of a registered model, and an alias for the version to be made.

    Attributes:
        name: E.g. ``digits``.
        alias: E.g. ``champion``; None for none.
    """

    name: str
    alias: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Name from ``NAME`` or ``NAME@ALIAS``.

        Raises:
            TrackingError: MLflow would refuse it.
        """
        name, at, alias = text.partition("@")
        if not re.fullmatch(r"[^/:.%\"'@]+", name) or not name.strip():
            raise TrackingError(f"--register: the name must not be empty nor hold / : . % @ or quotes, got '{name}'.")
        if at and (not re.fullmatch(r"[\w-]+", alias, flags=re.ASCII) or re.fullmatch(r"latest|v\d+", alias, re.I)):
            raise TrackingError(
                f"--register {text}: the alias must consist of letters, digits, _ and -, and not be 'latest' or a "
                f"version like v1, got '{alias}'."
            )
        return cls(name=name, alias=alias or None)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """An export as the registry sees it.

    Attributes:
        export: Folder of the export.
        code: Python file that defines the model; MLflow copies and runs it.
        weights: Name of the weights' file in the export.
        study: Name of the study, which is the experiment.
        study_id: Its identity over all stores.
        trial: Trial whose weights they are.
        directory: Folder of the study.
        event_shape: Shape of a sample; (C, H, W) for images, which are bytes.
        requirements: What ``pip`` must install to load it.
        params: What the study varied.
        description: Text in Markdown for its page.
    """

    export: Path
    code: Path
    weights: str
    study: str
    study_id: str
    trial: str
    directory: Path
    event_shape: tuple[int, ...]
    requirements: Sequence[str]
    params: Mapping[str, str]
    description: str


def register(uri: str, model: ModelName, registration: Registration) -> int:
    """Register an export as a version of a model, and give that version the alias.

    The version belongs to the run of its trial, if the store has one. Weights that some version of the model already
    holds get no second one.

    Args:
        uri: Tracking URI.
        model: Name and alias.
        registration: What to register.

    Returns:
        Number of the version.

    Raises:
        TrackingError: The store cannot be used.
    """
    check_uri(uri)
    try:
        store = Store(uri, registration.study, registration.directory)
        version = _known_version(store, model.name, _sha256(registration)) or _new_version(
            store, model.name, registration
        )
        if model.alias is not None:
            store.client.set_registered_model_alias(model.name, model.alias, version)
    except Exception as error:
        # Databases, servers and MLflow itself raise errors of many kinds, and all of them mean the same here.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrackingError(
            f"--register: '{uri}' must be a usable MLflow store, got: {reason}. The export is written; repair the "
            "store or name another with --tracking, and run the same command again."
        ) from error
    return int(version)


def _sha256(registration: Registration) -> str:
    with (registration.export / registration.weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known_version(store: Store, name: str, sha256: str) -> str | None:
    found = store.client.search_model_versions(f"name = '{name}'")
    return next((str(version.version) for version in found if version.tags.get(WEIGHTS_TAG) == sha256), None)


def _new_version(store: Store, name: str, registration: Registration) -> str:
    client, run = store.client, store.runs_of(registration.study_id).get(registration.trial)
    run_id = None if run is None else run.run_id
    tags = {
        "gcsearch.study": registration.study,
        "gcsearch.trial": registration.trial,
        WEIGHTS_TAG: _sha256(registration),
    }
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    with tempfile.TemporaryDirectory() as folder, _default_store(store.uri):
        saved = Path(folder) / "model"
        _save(saved, registration)
        logged = client.create_logged_model(
            store.experiment_id, name, source_run_id=run_id, tags=tags, params=dict(registration.params)
        )
        client.log_model_artifacts(logged.model_id, str(saved))
        client.finalize_logged_model(logged.model_id, "READY")
        version = client.create_model_version(
            name,
            source=f"models:/{logged.model_id}",
            run_id=run_id,
            tags=tags,
            description=registration.description,
            model_id=logged.model_id,
        )
    return str(version.version)


def _save(path: Path, registration: Registration) -> None:
    """Write the model as MLflow lays it out: code, export, signature, requirements."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    kind = np.dtype(np.uint8 if len(registration.event_shape) == 3 else np.float32)
    inputs: list[Any] = [ColSpec(DataType.long, name, required=False) for name in ("num", "steps", "seed")]
    outputs: list[Any] = [TensorSpec(kind, (-1, *registration.event_shape))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow wants an example to try, and would load the model for it
        save_model(
            path=path,
            python_model=str(registration.code),
            artifacts={"export": str(registration.export)},
            signature=ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs)),
            pip_requirements=list(registration.requirements),
        )


@contextmanager
def _default_store(uri: str) -> Iterator[None]:
    """MLflow's own default store for as long as the block runs: a local registry looks models up there."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
