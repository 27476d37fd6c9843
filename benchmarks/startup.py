"""How long the command line takes to start, and a trial from its start to its first step.

    .venv/bin/python benchmarks/startup.py [--only commands|trials] [--trials 4] [--json startup.json]

Commands: seconds of the processor, medians of interleaved runs, beside those of a Python that imports what draws help.

Trials, in one process and in several that Ray Train starts: each row is a study of its own on a Ray of its own, one
trial at a time; times are those of the study's ledger, from `trial_started` to the grid of samples that is drawn right
before the first step.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

import torch

from gcsearch.ledger import LEDGER_NAME, read_events
from gcsearch.tuning.spec import load_study
from gcsearch.tuning.study import run_study

EXPERIMENT = """\
name: tiny
data: {name: digits}
network: {name: mlp, width: 16}
optimizer: {name: adam, lr: 1e-3}
training: {num_images: 1_024, batch_size: 32}
evaluation: {every_images: 1_024, num_samples: 64, metrics: [fid]}
"""
STUDY = """\
experiment: tiny
space: {optimizer.lr: {min: 1e-4, max: 1e-3}}
budget: {trials: TRIALS}
search: {sampler: random}
resources: {workers: WORKERS, concurrent: 1}
"""


def seconds_of(workers: int, trials: int, *, with_train: bool) -> list[float]:
    """Seconds of each trial of one study."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny.yaml").write_text(EXPERIMENT)
        text = STUDY.replace("TRIALS", str(trials)).replace("WORKERS", str(workers)).replace("tiny", "tiny.yaml")
        (folder / "startup.yaml").write_text(text)
        study = load_study(folder / "startup.yaml")
        if with_train and workers == 1:
            # gcsearch trains in the trial's own process then; this is what it saves.
            from gcsearch.tuning import execution

            with patch.object(execution, "run_trial", execution.run_trial_on_workers):
                run_study(study, folder / "studies")
        else:
            run_study(study, folder / "studies")
        events = read_events(folder / "studies" / "startup" / LEDGER_NAME)
    starts, firsts = {}, {}
    for event in events:
        time = datetime.fromisoformat(event["time"])
        if event["event"] == "trial_started":
            starts.setdefault(event["trial"], time)
        if event["event"] == "samples":
            firsts.setdefault(event["trial"], time)
    return [(firsts[trial] - starts[trial]).total_seconds() for trial in sorted(starts)]


COMMANDS = {
    "python": ["-c", "pass"],
    "python that imports typer and rich": ["-c", "import typer, rich"],
    "python that imports what typer draws boxes around help with": ["-c", "import typer.rich_utils"],
    "gcsearch --help": ["-m", "gcsearch.cli.main", "--help"],
    "gcsearch run --help": ["-m", "gcsearch.cli.main", "run", "--help"],
    "python that imports what a trial does": ["-c", "import gcsearch.training"],
}


def seconds_of_commands(rounds: int) -> dict[str, list[float]]:
    """Seconds of the processor of each command, all rounds."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if number > 0:  # bytecode is cached from here on
                times[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return times


def show_commands(times: dict[str, list[float]]) -> None:
    """Print the table."""
    bare = times["python that imports typer and rich"]
    print("| command | CPU ms, median | to typer and rich |\n| --- | --- | --- |")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, bare, strict=True))
        print(f"| {name} | {statistics.median(values) * 1e3:.0f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("commands", "trials"), help="leave out the other one")
    parser.add_argument("--rounds", type=int, default=11, help="runs of each command")
    parser.add_argument("--trials", type=int, default=4, help="trials of each study; the first is a row of its own")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    rows: dict[str, list[float]] = {}
    if arguments.only != "trials":
        rows |= (commands := seconds_of_commands(arguments.rounds))
        show_commands(commands)
    if arguments.only != "commands":
        rows |= (trials := seconds_of_trials(arguments.trials))
        print("\n| trial | seconds to the first step, median (all) |\n| --- | --- |")
        for name, values in trials.items():
            every = ", ".join(f"{value:.2f}" for value in values)
            print(f"| {name} | {statistics.median(values):.2f} ({every}) |")
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "gpus": torch.cuda.device_count(), "load": os.getloadavg()[0]}
        content = {"rows": rows, "machine": machine, "torch": torch.__version__, "python": platform.python_version()}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def seconds_of_trials(trials: int) -> dict[str, list[float]]:
    """Seconds of the trials of each kind of study."""
    seconds_of(1, 1, with_train=False)  # reference features and bytecode are cached from here on
    inline = seconds_of(1, trials, with_train=False)
    single = seconds_of(1, 1, with_train=True)
    double = seconds_of(2, trials, with_train=True)
    return {
        "one process, first trial": inline[:1],
        "one process, later trials (process reused)": inline[1:],
        "Ray Train, 1 worker, first trial": single,
        "Ray Train, 2 workers, first trial": double[:1],
        "Ray Train, 2 workers, later trials": double[1:],
    }


if __name__ == "__main__":
    main()
