"""One experiment of an MLflow store: open it, find its runs, write into them. The only file that talks to MLflow."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gcsearch.errors import TrackingError
from gcsearch.tracking.names import MAX_PARAM, MAX_TAG
from gcsearch.tracking.page import PAGE_TAG
from gcsearch.tracking.view import RunUpdate

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from PIL.Image import Image

logger = logging.getLogger(__name__)

POSITION_TAG: Final = "gcsearch.events"
"""Tag of a run: how many of its events in the ledger it holds. A later writer goes on behind them."""

IMAGES_TAG: Final = "mlflow.loggedImages"
"""Tag of a run that has images over time; MLflow's pages look for it."""

SMALL_PIXELS: Final = 256

SCHEMES: Final = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")

PERMANENT: Final = ("INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
"""MLflow's codes for a request that will never succeed."""

SETTINGS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we retry; MLflow would also repeat a create_run that the server did
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def import_client() -> type[MlflowClient]:
    """MLflow's client, without its telemetry, chatter and long retries. The first call takes seconds."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient


def check_uri(uri: str) -> None:
    """Refuse a tracking URI that cannot work.

    Raises:
        TrackingError: It is a plain folder or of an unknown kind.
    """
    scheme = uri.partition(":")[0].partition("+")[0]
    path = sqlite_path(uri)
    if scheme not in SCHEMES or (scheme == "sqlite" and path is None):
        name = Path(urlsplit(uri).path or uri).name or "mlflow"
        raise TrackingError(
            f"tracking: the URI must be a database or a server (sqlite:///…, http://…), got '{uri}'. MLflow no longer "
            f"writes to plain folders; use for example sqlite:///{name.removesuffix('.db')}.db."
        )
    if path is not None and not path.parent.is_dir():
        raise TrackingError(f"tracking: the folder of '{uri}' must exist, {path.parent} does not. Create it.")


def sqlite_path(uri: str) -> Path | None:
    """Absolute path of a local store's database; None for servers and other databases."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return Path(match[1]).absolute() if match else None


def is_permanent(error: Exception) -> bool:
    """Whether the same request would fail again: MLflow says it is wrong, or the error is not about a connection."""
    code = getattr(error, "error_code", None)
    return code in PERMANENT if code is not None else not isinstance(error, OSError)


@dataclasses.dataclass(kw_only=True)
class StoredRun:
    """A run as far as we know what it holds.

    Attributes:
        run_id: MLflow's name of it.
        position: How many of its events it holds.
        image_steps: Steps of its sample grids; None if they were not listed yet.
        has_data: Whether it names the data.
    """

    run_id: str
    position: int = 0
    image_steps: set[int] | None = None
    has_data: bool = False


class Store:
    """An open experiment.

    Args:
        uri: Tracking URI.
        experiment: Name; created if missing, restored if deleted.
        directory: The study's folder, where sample grids are.
    """

    def __init__(self, uri: str, experiment: str, directory: Path) -> None:
        self.uri = uri
        self.directory = directory
        self.client = import_client()(tracking_uri=uri)
        self.experiment_id = self._open(experiment)

    def _open(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            root = sqlite_path(self.uri)
            folder = re.sub(r"[^\w.-]", "_", name)
            location = None if root is None else (root.parent / "mlartifacts" / folder).as_uri()
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(self.client.create_experiment(name, artifact_location=location, tags=tags))
        if found.lifecycle_stage == "deleted":
            logger.warning("The MLflow experiment '%s' was deleted; it is restored.", name)
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def runs(self) -> Iterator[Run]:
        """All runs of the experiment."""
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], max_results=500, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def runs_of(self, study_id: str) -> dict[str, StoredRun]:
        """Runs of one study by trial; the study's own run is under ``""``.

        A trial gets two runs if a slow server created the first one after we had stopped waiting for it. The one that
        holds less is deleted.
        """
        found: dict[str, StoredRun] = {}
        for run in self.runs():
            tags = run.data.tags
            if tags.get("gcsearch.study_id") != study_id:
                continue
            stored = StoredRun(
                run_id=run.info.run_id,
                position=int(tags.get(POSITION_TAG, 0)),
                has_data=bool(run.inputs and run.inputs.dataset_inputs),
            )
            key = tags.get("gcsearch.trial", "")
            other = found.setdefault(key, stored)
            if other is not stored:
                less, found[key] = sorted((other, stored), key=lambda one: (one.position, one.run_id))
                self.client.delete_run(less.run_id)
        return found

    def create_run(self, update: RunUpdate, tags: dict[str, str]) -> StoredRun:
        """A new run; `tags` say which, so that it is found again even if nothing else arrives."""
        run = self.client.create_run(
            self.experiment_id, start_time=update.start_time, run_name=update.name, tags=_cut(tags)
        )
        return StoredRun(run_id=run.info.run_id, image_steps=set())

    def write(self, run: StoredRun, update: RunUpdate, position: int) -> None:
        """Write an update; its last request also says that the run now holds `position` events."""
        from mlflow.entities import Metric, Param, RunTag

        for name, text in update.texts.items():
            self.client.log_text(run.run_id, text, name)
        for step, time, path in update.images:
            self._write_image(run, step, time, path)
        if update.data is not None:
            self._write_data(run, *update.data)
        tags = _cut(update.tags | {POSITION_TAG: str(position)})
        if update.images:
            tags[IMAGES_TAG] = "True"
        if update.status == "RUNNING":
            self.client.update_run(run.run_id, status="RUNNING")
        elif update.status is not None:
            self.client.set_terminated(run.run_id, update.status, update.end_time)
        self.client.log_batch(
            run.run_id,
            metrics=[Metric(key, value, time, step) for key, value, time, step in update.metrics],
            params=[Param(key, value[:MAX_PARAM]) for key, value in update.params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        run.position = position

    def _write_data(self, run: StoredRun, name: str, digest: str, count: int) -> None:
        """Name the data as an input of the run, once."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if run.has_data:
            return
        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="gcsearch",
            source=json.dumps({"data": name}),
            profile=json.dumps({"num_rows": count}),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(run.run_id, [DatasetInput(dataset, tags)])
        run.has_data = True

    def _write_image(self, run: StoredRun, step: int, time: int, path: str) -> None:
        """Log a sample grid, unless the run has one of this step: a resumed trial draws the same one again.

        The files are those of MLflow's `log_image`, except that their names follow from run, step and time. So if the
        server dies between the two, writing them again replaces the first.
        """
        import PIL.Image

        if run.image_steps is None:
            files = (file.path for file in self.client.list_artifacts(run.run_id, "images"))
            found = (re.match(r"images/samples[+%]step[+%](\d+)[+%].*compressed", file) for file in files)
            run.image_steps = {int(match[1]) for match in found if match}
        if step in run.image_steps:
            return
        file = self.directory / path
        try:
            with PIL.Image.open(file) as image:
                picture = image.convert("RGB")
        except OSError as error:
            logger.warning("%s: the sample grid cannot be read (%s); MLflow goes without it.", file, error)
        else:
            name = f"samples+step+{step}+timestamp+{time}+{uuid.uuid5(uuid.NAMESPACE_OID, f'{run.run_id} {step}')}"
            with tempfile.TemporaryDirectory() as folder:
                # One at a time: the small one, which says that the grid is there, comes last.
                for suffix, shown in ((".png", picture), ("+compressed.webp", _small(picture))):
                    shown.save(Path(folder) / f"{name}{suffix}")
                    self.client.log_artifact(run.run_id, str(Path(folder) / f"{name}{suffix}"), "images")
        run.image_steps.add(step)

    def write_table(self, run: StoredRun, table: dict[str, list[Any]], name: str) -> None:
        """Write a table that MLflow's pages can show, in place of an older one."""
        self.client.log_dict(run.run_id, table, name)
        self.client.set_tag(run.run_id, "mlflow.loggedArtifacts", json.dumps([{"path": name, "type": "table"}]))

    def write_page(self, page: dict[str, Any]) -> None:
        """Arrange the experiment's page; see `gcsearch.tracking.page`."""
        self.client.set_experiment_tag(self.experiment_id, PAGE_TAG, json.dumps(page))

    def write_file(self, run: StoredRun, path: Path) -> None:
        """Copy a file to the run, in place of an older one."""
        if path.exists():
            self.client.log_artifact(run.run_id, str(path))

    def write_bytes(self, run: StoredRun, content: bytes, name: str) -> None:
        """Write a file of the run, in place of an older one; folders are part of its name."""
        folder, _, last = name.rpartition("/")
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / last
            path.write_bytes(content)
            self.client.log_artifact(run.run_id, str(path), folder or None)


def _small(picture: Image) -> Image:
    """A copy of at most 256 x 256 pixels, which MLflow's pages show first."""
    scale = SMALL_PIXELS / max(picture.size)
    width, height = (max(1, int(scale * size)) for size in picture.size)
    return picture.resize((width, height))


def _cut(tags: dict[str, str]) -> dict[str, str]:
    return {key: value[:MAX_TAG] for key, value in tags.items()}
