"""The command `diagnose`: what each coupling does to an experiment or to given weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gcsearch.analysis.diagnosis import (
    SHORT_NAMES,
    Comparison,
    diagnosis_document,
    exact_independent,
    summarize,
)
from gcsearch.cli.console import print_json, progress, results, tell
from gcsearch.config import Experiment, find_experiment, load_experiment
from gcsearch.errors import ConfigError, suggestion
from gcsearch.files import write_text
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.statistics import Interval
from gcsearch.training.diagnosis import COUPLINGS, Diagnosis, DiagnosisSettings

QUANTITIES = {
    ("gradient_variance", "images"): "gradient variance",
    ("ode_distance", "images"): "distance to PF-ODE, training",
    ("transport_cost", "sigma"): "transport cost c",
    ("ode_distance", "sigma"): "distance to PF-ODE, by level",
    ("path_deviation", "sigma"): "proxy R",
}


def diagnose_command(
    target: str,
    *,
    couplings: str,
    seeds: str,
    num_batches: int,
    denoiser_steps: int,
    assignments: Sequence[str],
    imports: Sequence[str],
    output: Path | None,
    num_threads: int,
    device: str,
    as_json: bool,
) -> int:
    """Measure all arms, or those that are missing; write numbers and figures. Exit code 130 if interrupted."""
    import torch

    from gcsearch.analysis.figures import write_figures
    from gcsearch.training.diagnosis_session import run_diagnosis
    from gcsearch.training.session import chosen_device
    from gcsearch.training.teacher_stage import prepare

    names, numbers = _couplings(couplings), _seeds(seeds)
    settings = _settings(num_batches, denoiser_steps)
    if num_threads < 1:
        raise ConfigError(f"--cpus must be at least 1, got {num_threads}.")
    where = torch.device(chosen_device(device))
    experiment, weights, name = _target(target, assignments, imports, where)
    directory = output or Path("diagnoses") / name
    torch.set_num_threads(num_threads)
    prepare(experiment, tell)
    with _Progress(len(names) * len(numbers)) as view:
        diagnosis = Diagnosis(experiment, settings, weights=weights, device=where, progress=view.on_progress)
        try:
            rows = run_diagnosis(diagnosis, names, numbers, directory, on_start=view.on_start, on_arm=view.on_arm)
        except KeyboardInterrupt:
            progress.print("Interrupted. Finished arms are kept; run the same command again to go on.")
            return 130
    document = diagnosis_document(diagnosis, rows, target=target)
    write_text(directory / "diagnosis.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    figures = write_figures(rows, directory / "figures", subject=name)
    if as_json:
        print_json(document)
        return 0
    comparisons = summarize(rows)
    results.print(_table(comparisons, [name for name in COUPLINGS if name in names]))
    for note in _notes(document, comparisons, exact_independent(rows)):
        results.print(note, markup=False)
    progress.print(f"Saved: {directory}/diagnosis.json, {len(figures)} figures in {directory}/figures/", soft_wrap=True)
    return 0


def _couplings(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in COUPLINGS:
            raise ConfigError(
                f"--couplings must name couplings that can be compared, got {name!r}. {suggestion(name, COUPLINGS)}"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"--couplings must name none twice, got {text!r}.")
    return names


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise ConfigError(f"--seeds must be whole numbers >= 0 with commas, none twice, e.g. 0,1,2, got {text!r}.")
    return [int(part) for part in parts]


def _settings(num_batches: int, denoiser_steps: int) -> DiagnosisSettings:
    try:
        return DiagnosisSettings(num_batches=num_batches, denoiser_steps=denoiser_steps)
    except ValueError as error:
        field, problem = str(error).split(" ", 1)
        raise ConfigError(f"--{field.replace('_', '-')} {problem}.") from None


def _target(
    target: str, assignments: Sequence[str], imports: Sequence[str], device: Any
) -> tuple[Experiment, ConsistencyFunction | None, str]:
    """Experiment, weights if the target holds some, and a name for the folder."""
    path = Path(target)
    if path.suffix != ".pt" and not path.is_dir():
        experiment = load_experiment(find_experiment(target), assignments, imports)
        return experiment, None, experiment.name
    from gcsearch.export import load_model

    for option, given in (("--set", assignments), ("--import", imports)):
        if given:
            raise ConfigError(f"{option} {given[0]}: must be left out for weights, whose recipe is what trained them.")
    model = load_model(path)
    model.function.network.to(device)
    return model.experiment, model.function, f"{model.experiment.name}_{path.resolve().stem}"


class _Progress:
    """A bar on a terminal, a line for each arm elsewhere."""

    def __init__(self, num_arms: int) -> None:
        self.num_arms, self.num_done = num_arms, 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=progress, transient=True, disable=not progress.is_terminal)
        self.task = self.bar.add_task("Preparing", total=num_arms)
        self.arm = ""

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def on_start(self, coupling: str, seed: int) -> None:
        """An arm is about to be measured."""
        self.arm = f"{coupling}, seed {seed}"

    def on_progress(self, what: str) -> None:
        """Something is being done in the running arm."""
        self.bar.update(self.task, description=f"{self.arm}: {what}")

    def on_arm(self, coupling: str, seed: int, was_read: bool) -> None:
        """An arm is measured."""
        self.num_done += 1
        self.bar.update(self.task, completed=self.num_done)
        how = "read" if was_read else "measured"
        if not progress.is_terminal:
            progress.print(f"{self.num_done:>3} of {self.num_arms}  {coupling}, seed {seed}: {how}")


def _table(comparisons: Sequence[Comparison], names: Sequence[str]) -> Table:
    """One line for each quantity."""
    has_difference = "independent" in names and "generator" in names
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("quantity", min_width=28, no_wrap=True)
    for name in names:
        table.add_column(SHORT_NAMES[name], justify="right", no_wrap=True)
    if has_difference:
        table.add_column("GC - IC", justify="right", no_wrap=True)
        table.add_column("GC is", no_wrap=True)
    for comparison in comparisons:
        cells = [_plus_minus(comparison.couplings[name]) for name in names]
        if has_difference and comparison.difference is not None:
            cells += [_bracketed(comparison.difference), comparison.verdict or "-"]
        table.add_row(QUANTITIES[comparison.quantity, comparison.axis], *cells)
    return table


def _plus_minus(interval: Interval) -> str:
    if interval.high is None:
        return f"{interval.mean:.3g}"
    return f"{interval.mean:.3g} ± {interval.high - interval.mean:.1g}"


def _bracketed(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.3g}"
    return f"{interval.mean:.3g} \\[{interval.low:.3g}, {interval.high:.3g}]"


def _notes(
    document: dict[str, Any], comparisons: Sequence[Comparison], exact: tuple[float, float] | None
) -> Iterator[str]:
    """What the numbers of the table are."""
    num_seeds, levels = len(document["seeds"]), document["settings"]["num_levels"]
    if num_seeds < 2:
        yield "One seed: no intervals and no verdict. Give at least two, e.g. --seeds 0,1,2,3,4."
    else:
        yield f"± and [ ]: 95 % t intervals over {num_seeds} seeds; GC - IC within each seed. unclear: 0 lies inside."
    over = "evaluations of a training" if document["kind"] == "training" else "levels that training draws"
    yield f"First two lines: mean over the {over}, with the experiment's mu. Others: over {levels} levels, mu = 1."
    if document["ode_flow"] == "denoiser":
        yield "This data set has no closed form: the PF-ODE of all couplings is that of a denoiser trained for IC."
    if exact is not None and any(comparison.quantity == "path_deviation" for comparison in comparisons):
        yield f"R of IC by its denoiser is {exact[0]:.3g}, exactly {exact[1]:.3g}: what a denoiser's error adds."
