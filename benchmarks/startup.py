"""How long a trial takes from its start to its first step: in one process, and in several that Ray Train starts.

    .venv/bin/python benchmarks/startup.py [--trials 4] [--json startup.json]

Each row is a study of its own on a Ray of its own, one trial at a time; times are those of the study's ledger, from
`trial_started` to the grid of samples that is drawn right before the first step.
"""

import argparse
import json
import os
import platform
import statistics
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=4, help="trials of each study; the first is a row of its own")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    seconds_of(1, 1, with_train=False)  # reference features and bytecode are cached from here on
    inline = seconds_of(1, arguments.trials, with_train=False)
    single = seconds_of(1, 1, with_train=True)
    double = seconds_of(2, arguments.trials, with_train=True)
    rows = {
        "one process, first trial": inline[:1],
        "one process, later trials (process reused)": inline[1:],
        "Ray Train, 1 worker, first trial": single,
        "Ray Train, 2 workers, first trial": double[:1],
        "Ray Train, 2 workers, later trials": double[1:],
    }
    print("| trial | seconds to the first step, median (all) |\n| --- | --- |")
    for name, values in rows.items():
        every = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {statistics.median(values):.2f} ({every}) |")
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "gpus": torch.cuda.device_count(), "load": os.getloadavg()[0]}
        content = {"rows": rows, "machine": machine, "torch": torch.__version__, "python": platform.python_version()}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
