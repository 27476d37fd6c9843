"""The commands about studies: run, show, export, sync, ui."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from gcsearch.analysis.health import findings
from gcsearch.analysis.rank_fidelity import rank_fidelities
from gcsearch.analysis.results import StudyResults, all_results, open_results, write_tables
from gcsearch.analysis.wording import advices, front_text, verdict_text
from gcsearch.cli.console import print_json, progress, results, say, tell
from gcsearch.cli.live import LiveView
from gcsearch.cli.outside import run_outside
from gcsearch.cli.studies import fetched, local_folder, mirrored
from gcsearch.cli.tables import (
    costs,
    fidelity_table,
    finalists_table,
    leaderboard,
    study_json,
    study_list,
)
from gcsearch.config.documents import dump_yaml
from gcsearch.errors import ConfigError, StudyError, TrackingError
from gcsearch.ledger import LEDGER_NAME, read_events
from gcsearch.provenance import typed_command
from gcsearch.storage import is_uri

if TYPE_CHECKING:
    from gcsearch.tracking import MLflowTracker
    from gcsearch.tuning.driver import Observer

MAX_ROWS = 12
"""Rows of the leaderboard at the end of a run; `gcsearch show` prints all."""


def store_uri(tracking: str | None, studies: Path) -> str:
    """MLflow store: what the user says, what the environment says, or a database beside the studies."""
    if tracking or os.environ.get("MLFLOW_TRACKING_URI"):
        return tracking or os.environ["MLFLOW_TRACKING_URI"]
    return f"sqlite:///{(studies.resolve().parent / 'mlflow.db').as_posix()}"


def run_command(
    space: Path,
    *,
    experiment: str | None,
    name: str | None,
    trials: int | None,
    assignments: Sequence[str],
    imports: Sequence[str],
    address: str | None,
    tracking: str | None,
    studies: str,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Run a study and say what came out. Exit code 1 if a trial failed, 130 if interrupted."""
    from gcsearch.tuning.cluster import is_outside
    from gcsearch.tuning.spec import load_study
    from gcsearch.tuning.study import check_unchanged, run_study

    study = load_study(space, experiment=experiment, name=name, trials=trials, assignments=assignments, imports=imports)
    if dry_run:
        check_unchanged(study, fetched(studies, study.name, may_be_new=True) / study.name)
        if as_json:
            print_json(study.to_dict() | {"rungs": list(study.experiment.rungs)})
        else:
            results.print(dump_yaml(study.to_dict()), markup=False, end="")
            rungs = ", ".join(f"{rung:,}" for rung in study.stopping.rungs(study.experiment.training.num_images))
            results.print(f"# Stopping is decided at {rungs or 'no'} images. Nothing was started.", markup=False)
        return 0

    if is_outside(address):
        options = [] if trials is None else ["--trials", str(trials)]
        return run_outside(
            "run", space, study, options, address=address, tracking=tracking, studies=studies, as_json=as_json
        )

    study.prepare(tell)
    with mirrored(studies, study.name) as (folder, mirrors):
        check_unchanged(study, folder / study.name)
        uri = store_uri(tracking, folder)
        code = run_tracked(
            study.name,
            folder,
            uri,
            study.budget.trials,
            lambda observers: run_study(study, folder, address=address, observers=[*observers, *mirrors]),
        )
    outcome = open_results(folder / study.name)
    if as_json:
        print_json(study_json(outcome))
    else:
        _print_end(outcome, studies, is_interrupted=code == 130, tracking=uri)
    return code or (1 if any(outcome.state.of_state("failed")) else 0)


def run_tracked(
    name: str, studies: Path, uri: str, num_trials: int | None, run: Callable[[Sequence[Observer]], object]
) -> int:
    """Run a study or an ablation with its live view and its tracker. Exit code 130 if interrupted."""
    from gcsearch.tracking import MLflowTracker
    from gcsearch.tuning.study import record_runs

    directory = studies / name
    directory.mkdir(parents=True, exist_ok=True)
    with progress.status("Opening the MLflow store…") if progress.is_terminal else nullcontext():
        tracker = MLflowTracker(uri, directory, name)
    code, is_over = 0, False
    try:
        with LiveView(progress, num_trials) as view:
            run([view, tracker])
        is_over = True
    except KeyboardInterrupt:
        code = 130
    finally:
        if (directory / LEDGER_NAME).exists():
            write_tables(directory)
        if is_over:
            attach_report(tracker, open_results(directory))
        with progress.status("Writing the rest to MLflow…") if progress.is_terminal else nullcontext():
            tracker.close(timeout_s=5.0 if code == 130 else 30.0)
    record_runs(directory, tracker.run_ids)
    return code


def attach_report(tracker: MLflowTracker, outcome: StudyResults) -> None:
    """Put the report on the study's run in MLflow. Without one, the study is over, or synced, all the same."""
    if not any(record.results for record in outcome.searched()):
        return
    from gcsearch.analysis.report import report_files
    from gcsearch.tuning.importance import PedAnova

    with progress.status("Drawing the report…") if progress.is_terminal else nullcontext():
        try:
            tracker.attach(report_files(outcome, PedAnova))
        except Exception as error:
            progress.print(f"MLflow goes without the report: {error}", style="yellow", markup=False)


def _print_end(outcome: StudyResults, studies: str, *, is_interrupted: bool, tracking: str) -> None:
    rows = outcome.rows()
    results.print(leaderboard(outcome, rows[:MAX_ROWS], results.width))
    if len(rows) > MAX_ROWS:
        results.print(f"and {len(rows) - MAX_ROWS} more: gcsearch show {outcome.name}", style="dim")
    print_finalists(outcome)
    counts = ", ".join(f"{count} {state}" for state, count in outcome.counts().items())
    progress.print(f"Trials: {counts or 'none'}.")
    print_place(outcome, studies, is_interrupted=is_interrupted, tracking=tracking)


def print_place(outcome: StudyResults, studies: str, *, is_interrupted: bool, tracking: str) -> None:
    """What failed, where everything is, and what to do next."""
    _print_failures(outcome)
    place = f"{studies.rstrip('/')}/{outcome.name}" if is_uri(studies) else outcome.directory
    progress.print(f"Saved: {place}/ (ledger, tables, checkpoints, samples); MLflow: {tracking}", soft_wrap=True)
    if is_interrupted:
        progress.print(f"Interrupted. Nothing is lost; to resume:  [bold]{typed_command()}[/bold]", soft_wrap=True)
        return
    where = "" if studies == "studies" else f" --studies {shlex.quote(studies)}"
    choice = " --trial TRIAL" if outcome.has_front else ""
    export, ui = f"gcsearch export {outcome.name}{choice}{where}", f"gcsearch ui{where}"
    width = max(len(export), len(ui))
    progress.print("Next:", style="bold")
    recipe = "a recipe of the front" if outcome.has_front else "the best recipe"
    progress.print(f"  {export:{width}}   # {recipe}, its weights and samples", soft_wrap=True)
    progress.print(f"  {ui:{width}}   # compare the trials in MLflow", soft_wrap=True)


def print_finalists(outcome: StudyResults) -> None:
    """The finalists' table and what it says, below the front that the search has, if it has one."""
    if outcome.has_front:
        say(front_text(outcome))
    selection = outcome.selection
    if selection is None:
        return
    results.print(finalists_table(outcome, selection, results.width))
    say(verdict_text(selection))


def _print_failures(outcome: StudyResults) -> None:
    for record in outcome.state.of_state("failed", "diverged"):
        progress.print(f"{record.trial} {record.state}: {record.reason}", style="yellow", markup=False, soft_wrap=True)


def show_command(study: str | None, studies: str, *, as_json: bool) -> None:
    """List studies, or show one."""
    folder = fetched(studies, study)
    if study is None:
        found = list(all_results(folder))
        if as_json:
            print_json({"studies": [study_json(one) | {"trials": len(one.state.trials)} for one in found]})
        elif not found:
            results.print(f"No studies in {studies}/. Start one: gcsearch run search_spaces/mu_schedule.yaml")
        else:
            results.print(study_list(found))
        return
    outcome = open_results(study, folder)
    if outcome.state.ablation is not None:
        from gcsearch.cli.ablation import ablation_json, print_ablation

        if as_json:
            print_json(ablation_json(outcome))
        else:
            print_ablation(outcome)
            _print_failures(outcome)
        return
    if as_json:
        print_json(study_json(outcome))
        return
    results.print(leaderboard(outcome, outcome.rows(), results.width))
    print_finalists(outcome)
    results.print(costs(outcome))
    fidelities = rank_fidelities(outcome)
    if any(fidelity.rungs for fidelity in fidelities):
        results.print(fidelity_table(fidelities))
    for advice in advices(outcome, fidelities):
        say(advice)
    for finding in findings(outcome):
        say(f"Note: {finding.text}", style="yellow")
    _print_failures(outcome)


def export_command(
    study: str,
    trial: str | None,
    output: Path | None,
    studies: str,
    *,
    register: str | None,
    diffusers: bool,
    tracking: str | None,
    as_json: bool,
) -> None:
    """Export the winner or one trial; register it, and write it for diffusers, if asked to."""
    from gcsearch.export import export_trial
    from gcsearch.export.registering import register_export
    from gcsearch.export.wording import choice_text, score_text
    from gcsearch.tracking.registering import ModelName

    if tracking and register is None:
        raise ConfigError("--tracking: must come with --register, which says as what to register. Leave it out.")
    model = None if register is None else ModelName.parse(register)
    studies_folder = fetched(studies, study, checkpoints=True)
    outcome = open_results(study, studies_folder)
    folder = output or Path("exports") / outcome.name
    record = export_trial(outcome, folder, trial, diffusers=diffusers)
    uri, version = store_uri(tracking, studies_folder), None
    if model is not None:
        with progress.status("Registering…") if progress.is_terminal else nullcontext():
            version = register_export(outcome, record, folder, model, uri)
    if as_json:
        files = sorted(str(path) for path in folder.iterdir())
        content = {"study": outcome.name, "trial": record.trial, "directory": str(folder), "files": files}
        registered = None if model is None else {"name": model.name, "alias": model.alias, "version": version}
        print_json(content | {"registered": registered})
        return
    results.print(f"Trial {record.trial} of {outcome.name}, {score_text(outcome, record)}, is in {folder}/:")
    for path in sorted(folder.iterdir()):
        results.print(f"  {path.name}")
    if record.kind == "arm":
        say(choice_text(outcome, record).replace("**", ""))
    if model is not None:
        place = f"models:/{model.name}@{model.alias}" if model.alias else f"models:/{model.name}/{version}"
        results.print(f"Version {version} of the model '{model.name}' in {uri}: {place}", markup=False)
    progress.print("Next:", style="bold")
    progress.print(f"  gcsearch sample {folder} --num 64   # draw samples")
    progress.print(f"  gcsearch train {folder}/best.yaml   # train the recipe again")


def sync_command(study: str, tracking: str | None, studies: str) -> int:
    """Write a ledger into MLflow. Exit code 1 if something could not be written."""
    from gcsearch.tracking import MLflowTracker

    folder = fetched(studies, study)
    outcome = open_results(study, folder)
    uri = store_uri(tracking, folder)
    tracker = MLflowTracker(uri, outcome.directory, outcome.name)
    events = read_events(outcome.directory / LEDGER_NAME)
    for event in events:
        tracker.on_event(event)
    attach_report(tracker, outcome)
    left, count = tracker.close(timeout_s=600.0), tracker.num_received
    results.print(f"{count - left} of {count} events and figures of {outcome.name} are in {uri}.")
    return 1 if left else 0


def ui_command(tracking: str | None, studies: str, port: int) -> None:
    """Serve the MLflow page until Ctrl-C."""
    from gcsearch.tracking.ui import deep_links, serve

    uri = store_uri(tracking, local_folder(studies))
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.is_file():
        raise StudyError(f"ui: there is no MLflow store at {database}. Run a study first, or name one with --tracking.")
    if uri.startswith(("http://", "https://")):
        raise TrackingError(f"ui: {uri} is a server that has its own page. Open it in a browser.")
    with serve(uri, port) as (url, process):
        results.print(f"MLflow: [bold]{url}/?workflowType=machine_learning[/bold]   (Ctrl-C stops it)")
        for label, link in deep_links(uri, url):
            results.print(f"  {label}:\n    {link}", markup=False)
        try:
            process.wait()
        except KeyboardInterrupt:
            return
