"""`run` and `ablate` on a cluster that this machine is not a node of: ``--address ray://HOST:PORT``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from gcsearch.cli.console import PIPED_WIDTH, progress
from gcsearch.config.documents import dump_yaml, read_document
from gcsearch.config.imports import packed_modules, search_paths
from gcsearch.errors import ConfigError
from gcsearch.provenance import COMMAND, typed_command
from gcsearch.storage import is_uri

if TYPE_CHECKING:
    from gcsearch.tuning.ablation import AblationSpec
    from gcsearch.tuning.spec import StudySpec

FILE, EXPERIMENT = "search.yaml", "experiment.yaml"
"""Names of what is sent."""


def run_outside(
    command: str,
    path: Path,
    study: StudySpec | AblationSpec,
    options: Sequence[str],
    *,
    address: str,
    tracking: str | None,
    studies: str,
    as_json: bool,
) -> int:
    """Have the head of the cluster run a study or an ablation that was validated here; print what it prints.

    Args:
        command: ``run`` or ``ablate``.
        path: File of the study.
        study: What was read from it, with the experiment and its overrides.
        options: Options of the command that say more than the files.
        address: ``ray://HOST:PORT``.
        tracking: MLflow store as the head reaches it; default: beside the studies.
        studies: Folder of the studies as the head sees it, or its URI.
        as_json: Whether one JSON object is wanted.

    Returns:
        The command's exit code.

    Raises:
        ConfigError: `studies` says nothing to the head, or no cluster answers.
        StudyError: A node cannot run the study, or the connection was lost.
    """
    from gcsearch.tuning.head import run_on_head

    if not is_uri(studies) and not PurePosixPath(studies).is_absolute():
        raise ConfigError(
            f"--studies: must be a full path on the cluster's head, or a URI, with --address {address}: the study is "
            f"kept there, and not on this machine; got {studies}. For example --studies /mnt/studies, or "
            "s3://bucket/studies."
        )
    files = {FILE: _content(path, study), EXPERIMENT: dump_yaml(study.base.data).encode()}
    arguments = [command, FILE, "--experiment", EXPERIMENT, "--name", study.name, *options]
    arguments += ["--address", "auto", "--studies", studies]
    if store := tracking or os.environ.get("MLFLOW_TRACKING_URI"):
        arguments += ["--tracking", store]
    if as_json:
        arguments.append("--json")
    environment = {
        COMMAND: typed_command(),
        "COLUMNS": str(progress.width if progress.is_terminal else PIPED_WIDTH),
    }

    def write(stream: str, line: str) -> None:
        target = sys.stdout if stream == "stdout" else sys.stderr
        target.write(line)
        target.flush()

    return run_on_head(address, arguments, files, packed_modules(search_paths(study.base)), environment, write)


def _content(path: Path, study: StudySpec | AblationSpec) -> bytes:
    """The file, with the factors that the winner of a path stands for: that is another file, which is not there."""
    data = read_document(path).data
    if "winner" not in data or not hasattr(study, "factors"):
        return path.read_bytes()
    rest = {key: value for key, value in data.items() if key != "winner"}
    return dump_yaml(rest | {"factors": study.factors}).encode()
