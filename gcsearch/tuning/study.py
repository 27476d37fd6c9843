"""Run, resume or extend a study: open its folder, start the cluster, hand the driver's decisions to Ray Tune."""

from __future__ import annotations

import difflib
import logging
import platform
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gcsearch.config.documents import dump_yaml, read_document
from gcsearch.config.imports import packed_modules, search_paths
from gcsearch.errors import StudyError
from gcsearch.files import write_text
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.registry import spec
from gcsearch.tuning.alike import check_nodes
from gcsearch.tuning.cluster import check_address, ray_cluster
from gcsearch.tuning.driver import Driver, Observer
from gcsearch.tuning.spec import StudySpec

logger = logging.getLogger(__name__)

VERSIONS = ("gcsearch", "torch", "ray", "optuna", "mlflow", "torch-fidelity", "lion-pytorch", "numpy")


def run_study(
    study: StudySpec,
    studies: Path,
    *,
    address: str | None = None,
    observers: Sequence[Observer] = (),
) -> StudyState:
    """Run a study to the end of its budget, going on where an earlier run stopped.

    Args:
        study: The study.
        studies: Folder that holds all studies.
        address: Ray cluster to use; None starts one on this machine.
        observers: Told of every event, those of earlier runs first.

    Returns:
        The state at the end.

    Raises:
        ConfigError: No cluster answers at the address, or not even one trial fits.
        StudyError: A node cannot run the study, the folder holds a different study of this name, or another process
            is writing it.
        WeightsError: Published weights that a trial needs cannot be had. Nothing was written.
        KeyboardInterrupt: Interrupted; the ledger says so, and the same call resumes.
    """
    directory = studies / study.name
    check_address(address)
    check_unchanged(study, directory)
    study.prepare()
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        events = read_events(directory / LEDGER_NAME)
        for observer in observers:
            for event in events:
                observer.on_event(event)
        driver = Driver(study, directory, ledger, StudyState(events), observers)
        _write_study_file(study, directory)
        driver.write("study_started", study=study.name, study_id=_study_id(driver.state), **provenance(study))
        try:
            driver.settle()
            if driver.has_work():
                with ray_cluster(address) as nodes:
                    from gcsearch.tuning.execution import run_trials  # imports Ray, which `ray_cluster` has set up

                    paths = search_paths(study.base)
                    modules = packed_modules(paths) if study.experiment.imports else b""
                    code = None if address is None else check_nodes(directory)
                    run_trials(driver, study.resources, paths, nodes, modules, code)
        except BaseException:
            driver.interrupt()
            driver.write("study_interrupted")
            raise
        driver.finish()
        return driver.state


def record_runs(directory: Path, run_ids: Mapping[str, str]) -> None:
    """Note in the ledger which MLflow run shows which trial, once for each.

    Args:
        directory: Folder of the study.
        run_ids: Trial to MLflow run.
    """
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        events = read_events(directory / LEDGER_NAME)
        known = {(event["trial"], event["mlflow_run_id"]) for event in events if event["event"] == "tracked"}
        trials = StudyState(events).trials
        for trial, run_id in sorted(run_ids.items()):
            if trial in trials and (trial, run_id) not in known:
                ledger.append("tracked", trial=trial, mlflow_run_id=run_id)


def check_unchanged(study: StudySpec, directory: Path) -> None:
    """Refuse to continue a study whose experiment, space, objective or stopping rule differ from what it began with.

    Raises:
        StudyError: With a diff.
    """
    path = directory / "study.yaml"
    if not path.exists():
        return
    stored = read_document(path).data
    identity = study.identity()
    old = dump_yaml({key: stored.get(key) for key in identity})
    new = dump_yaml(identity)
    if old != new:
        diff = difflib.unified_diff(old.splitlines(), new.splitlines(), "recorded", "asked for", n=0, lineterm="")
        changes = "\n".join(f"    {line}" for line in diff if not line.startswith(("---", "+++", "@@")))
        raise StudyError(
            f"{path}: the study '{study.name}' was begun with other settings, so its trials cannot be compared with "
            f"new ones:\n{changes}\nGo back to the recorded settings, or start a new study with --name."
        )


def _write_study_file(study: StudySpec, directory: Path) -> None:
    """study.yaml: enough to run the study again; budget, search and resources follow the latest run."""
    path = directory / "study.yaml"
    write_text(path, dump_yaml(study.to_dict() | {"provenance": provenance(study)["provenance"]}))


def _study_id(state: StudyState) -> str:
    """Identity of the study over all its runs and tracking stores."""
    return str(state.study.get("study_id") or uuid.uuid4().hex)


def provenance(study: StudySpec) -> dict[str, Any]:
    """Where numbers come from: versions, machine, state of the code, command."""
    return {
        "objective": study.to_dict()["objective"] | {"key": study.objective.key},
        "keys": [entry.key for entry in study.space.entries],
        "horizon_images": study.experiment.training.num_images,
        "trials": study.budget.trials,
        "budget": spec(study.budget),
        "stopping": spec(study.stopping),
        "stopping_rungs": list(study.stopping.rungs(study.experiment.training.num_images)),
        "within": study.within,
        "gpus_per_worker": study.resources.gpus_per_worker,
        "cpus_per_worker": study.resources.cpus_per_worker,
        "provenance": {
            "versions": {name: _version(name) for name in VERSIONS},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "git": _git_state(),
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "seeds": {
                "experiment": study.experiment.seed,
                "evaluation": study.experiment.evaluation.seed,
                "search": study.search.seed,
            },
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"


def _git_state() -> dict[str, Any] | None:
    """Commit of the code and whether it has uncommitted changes; None outside a repository."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "is_dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
