"""Run, resume or extend a study: open its folder, start the cluster, hand the driver's decisions to Ray Tune."""

from __future__ import annotations

import difflib
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gcsearch.config.documents import dump_yaml, read_document
from gcsearch.config.imports import packed_modules, search_paths
from gcsearch.errors import StudyError
from gcsearch.files import write_text
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.provenance import environment, provenance
from gcsearch.training.teacher_stage import TEACHER
from gcsearch.tuning.ablation import AblationSpec
from gcsearch.tuning.ablation_driver import AblationDriver
from gcsearch.tuning.alike import check_nodes
from gcsearch.tuning.cluster import check_address, ray_cluster
from gcsearch.tuning.driver import Driver, Observer
from gcsearch.tuning.path import PathDriver
from gcsearch.tuning.search_driver import SearchDriver
from gcsearch.tuning.spec import StudySpec

logger = logging.getLogger(__name__)


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

    def driver(ledger: LedgerWriter, state: StudyState) -> Driver:
        return SearchDriver(study, directory, ledger, state, observers)

    return _run(study, directory, driver, address=address, observers=observers)


def run_ablation(
    ablation: AblationSpec,
    studies: Path,
    *,
    is_sequential: bool = False,
    address: str | None = None,
    observers: Sequence[Observer] = (),
) -> StudyState:
    """Run an ablation to its last training, going on where an earlier run stopped.

    Args:
        ablation: The ablation.
        studies: Folder that holds all studies.
        is_sequential: Add seeds for what is undecided. Once begun this way, it stays so: judging all at once what was
            looked at in steps would break the error rate.
        address: Ray cluster to use; None starts one on this machine.
        observers: Told of every event, those of earlier runs first.

    Returns:
        The state at the end.

    Raises:
        The same as `run_study`.
    """
    directory = studies / ablation.name

    def driver(ledger: LedgerWriter, state: StudyState) -> Driver:
        if ablation.design == "path":
            return PathDriver(ablation, directory, ledger, state, observers)
        was_sequential = state.ablation is not None and len(state.ablation["looks"]) > 1
        plan = ablation.plan(is_sequential or was_sequential)
        return AblationDriver(ablation, plan, directory, ledger, state, observers)

    return _run(ablation, directory, driver, address=address, observers=observers)


def _run(
    study: StudySpec | AblationSpec,
    directory: Path,
    make_driver: Callable[[LedgerWriter, StudyState], Driver],
    *,
    address: str | None,
    observers: Sequence[Observer],
) -> StudyState:
    check_address(address)
    check_unchanged(study, directory)
    teachers = study.prepare()
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        events = read_events(directory / LEDGER_NAME)
        for observer in observers:
            for event in events:
                observer.on_event(event)
        driver = make_driver(ledger, StudyState(events))
        _write_study_files(study, directory)
        driver.write(
            "study_started",
            study=study.name,
            study_id=_study_id(driver.state),
            **description(study),
            **driver.opening(),
        )
        for teacher in teachers:
            driver.write(TEACHER, **asdict(teacher))
        try:
            if driver.has_work():
                with ray_cluster(address) as nodes:
                    from gcsearch.tuning.execution import run_trials  # imports Ray, which `ray_cluster` has set up

                    paths = search_paths(study.base)
                    modules = packed_modules(paths) if study.experiment.imports else b""
                    code, root = (None, None) if address is None else (check_nodes(), directory)
                    run_trials(driver, study.resources, paths, nodes, modules, code, root)
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


def check_unchanged(study: StudySpec | AblationSpec, directory: Path) -> None:
    """Refuse to continue a study that differs from what it began with, in what makes its trials comparable.

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


def _write_study_files(study: StudySpec | AblationSpec, directory: Path) -> None:
    """study.yaml and environment.txt: enough to run it again; budget, search and resources follow the latest run."""
    content = study.to_dict() | {"provenance": description(study)["provenance"]}
    write_text(directory / "study.yaml", dump_yaml(content))
    write_text(directory / "environment.txt", "".join(f"{line}\n" for line in environment()))


def _study_id(state: StudyState) -> str:
    """Identity of the study over all its runs and tracking stores."""
    return str(state.study.get("study_id") or uuid.uuid4().hex)


def description(study: StudySpec | AblationSpec) -> dict[str, Any]:
    """What the ledger says of a study at its start, with where its numbers come from."""
    return {
        **study.opening(),
        "gpus_per_worker": study.resources.gpus_per_worker,
        "cpus_per_worker": study.resources.cpus_per_worker,
        "provenance": provenance(
            experiment=study.experiment.seed,
            evaluation=study.experiment.evaluation.seed,
            **({"search": study.search.seed} if isinstance(study, StudySpec) else {}),
        ),
    }
