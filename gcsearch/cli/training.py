"""The command about single trainings: train."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from gcsearch.analysis.results import open_results, write_tables
from gcsearch.cli.console import print_json, progress, results, tell
from gcsearch.cli.live import LiveView
from gcsearch.cli.tables import leaderboard, study_json
from gcsearch.config import Document, Experiment, find_experiment, load_experiment
from gcsearch.config.imports import search_paths
from gcsearch.errors import ConfigError


def train_command(
    name: str,
    *,
    assignments: Sequence[str],
    imports: Sequence[str],
    output: Path | None,
    num_threads: int,
    device: str,
    as_json: bool,
) -> int:
    """Train one experiment. Exit code 1 if it diverged, 130 if interrupted."""
    from gcsearch.training.session import chosen_device
    from gcsearch.training.teacher_stage import prepare

    if num_threads < 1:
        raise ConfigError(f"--cpus-per-worker must be at least 1, got {num_threads}.")
    chosen = chosen_device(device)
    path = find_experiment(name)
    experiment = load_experiment(path, assignments, imports)
    directory = output or Path("runs") / experiment.name
    prepare(experiment, tell)
    train = _train_here if experiment.training.num_workers == 1 else _train_on_workers
    state, reason = train(experiment, directory, chosen, num_threads, search_paths(Document({}, str(path))))
    write_tables(directory)
    study = open_results(directory)
    if as_json:
        print_json(study_json(study))
    else:
        results.print(leaderboard(study, study.rows()))
        progress.print(f"Saved: {directory}/ (ledger, tables, checkpoints, samples)")
    if state in ("stopped", "interrupted"):
        progress.print("Interrupted. Nothing is lost; run the same command again to resume.")
        return 130
    if state == "diverged":
        progress.print(f"Diverged: {reason}", style="yellow", markup=False, soft_wrap=True)
        return 1
    if not as_json:
        progress.print("Next:", style="bold")
        progress.print(f"  gcsearch sample {directory}/checkpoints/latest.pt")
        progress.print(f"  gcsearch export {directory}")
    return 0


def _train_here(
    experiment: Experiment, directory: Path, device: str, num_threads: int, paths: list[str]
) -> tuple[str, str | None]:
    from gcsearch.training.session import run_training

    del paths  # this process has them
    with LiveView(progress, 1) as view, _interruptible() as interrupted:
        outcome = run_training(
            experiment,
            directory,
            device=device,
            num_threads=num_threads,
            should_stop=lambda: bool(interrupted),
            on_event=view.on_event,
            on_progress=view.on_progress,
        )
    return outcome.state, outcome.reason


def _train_on_workers(
    experiment: Experiment, directory: Path, device: str, num_threads: int, paths: list[str]
) -> tuple[str, str | None]:
    from gcsearch.tuning.training import train_on_workers

    with LiveView(progress, 1) as view:
        return train_on_workers(
            experiment,
            directory,
            cpus_per_worker=num_threads,
            gpus_per_worker=1 if device == "cuda" else 0,
            paths=paths,
            on_event=view.on_event,
            on_progress=view.on_progress,
        )


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Ctrl-C asks the training to stop after its step; a second one ends the process at once."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)
