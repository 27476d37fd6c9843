"""What the driver of a study costs: trials that train nothing, on real Ray, against Ray Tune with its own parts.

    .venv/bin/python benchmarks/driver_overhead.py [--trials 500] [--json driver_overhead.json]
    .venv/bin/python benchmarks/driver_overhead.py --allocations [--trials 100]

Every method runs in a process and on a Ray of its own, with four logical cores and four trials at a time. A trial
reports a score at six evaluations, and ends there or where it is stopped; three parameters are searched.

- ours: ledger, sampler `auto`, stopping rule `asha` (each variant), as `gcsearch run` does it but for MLflow;
- Tune: OptunaSearch and ASHAScheduler with the same rungs, all else as it comes;
- Tune, helped: the same with processes used again and without its loggers.

Trials per second are those of the whole study without the start of Ray. Memory is that of the driver's process.

`--allocations` runs ours alone, and says how much of what Python allocates stays with each further trial, and where: a
number that other work on the machine does not move, from far fewer trials than the process's memory takes to show it.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EVERY, EVALUATIONS, FIRST, FACTOR = 1_000, 6, 2_000, 3
"""Images between evaluations, their number, first rung, and ratio of the rungs."""

CONCURRENT = 4
RANGES = {"optimizer.lr": (1e-5, 1e-2), "network.dropout": (0.0, 0.5), "coupling.mu": (0.0, 1.0)}
EXPERIMENT = f"""\
name: nothing
data: {{name: digits}}
network: {{name: unet, channels: 8}}
training: {{num_images: {EVERY * EVALUATIONS}, batch_size: 10}}
evaluation: {{every_images: {EVERY}, num_samples: 64, metrics: [fid]}}
"""
STUDY = f"""\
name: nothing
experiment: nothing.yaml
budget: {{trials: TRIALS}}
space:
  optimizer.lr: {{min: 1e-5, max: 1e-2, scale: log}}
  network.dropout: {{min: 0.0, max: 0.5}}
  coupling.mu: {{min: 0.0, max: 1.0}}
stopping: {{name: asha, variant: VARIANT, min_images: {FIRST}, factor: {FACTOR}}}
resources: {{concurrent: {CONCURRENT}}}
"""


def score(lr: float, dropout: float, mu: float, images: int) -> float:
    """Falls with training, to a bottom that depends on the parameters."""
    return (math.log10(lr) + 3.5) ** 2 + dropout + (mu - 0.3) ** 2 + EVERY / images


def our_trial(config: dict[str, Any]) -> None:
    """Reports what a training would, without one."""
    from ray import tune

    from gcsearch.tuning.trial import MESSAGE

    recipe = config["experiment"]
    values = recipe["optimizer"]["lr"], recipe["network"]["dropout"], recipe["coupling"]["mu"]
    for images in range(EVERY, EVERY * EVALUATIONS + 1, EVERY):
        if images > config["reported_images"]:
            metrics = {"eval/fid": score(*values, images), "cost/train_seconds": images / 1000}
            result = {"images": images, "metrics": metrics, "identities": {}}
            tune.report({MESSAGE: json.dumps({"result": result})})
    tune.report({MESSAGE: json.dumps({"outcome": {"state": "completed", "reason": None}})})


def ours(trials: int, folder: Path, variant: str, observers: Sequence[Any] = ()) -> int:
    """Run the study with our driver; number of trials."""
    from unittest.mock import patch

    from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState
    from gcsearch.tuning import execution
    from gcsearch.tuning.search_driver import SearchDriver
    from gcsearch.tuning.spec import load_study

    (folder / "nothing.yaml").write_text(EXPERIMENT)
    (folder / "study.yaml").write_text(STUDY.replace("TRIALS", str(trials)).replace("VARIANT", variant))
    study = load_study(folder / "study.yaml")
    with LedgerWriter(folder / LEDGER_NAME) as ledger, patch.object(execution, "run_trial", our_trial):
        driver = SearchDriver(study, folder, ledger, StudyState(), observers)
        driver.write("study_started", study=study.name, **study.opening())
        execution.run_trials(driver, study.resources, [], [{"CPU": float(CONCURRENT)}])
        driver.finish()
    return len(driver.state.trials)


def tunes(trials: int, folder: Path, *, is_helped: bool) -> int:
    """Run the same with Tune's own parts; number of trials."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    def trial(config: dict[str, Any]) -> None:
        for images in range(EVERY, EVERY * EVALUATIONS + 1, EVERY):
            tune.report({"fid": score(config["lr"], config["dropout"], config["mu"], images), "images": images})

    asha = ASHAScheduler(time_attr="images", max_t=EVERY * EVALUATIONS, grace_period=FIRST, reduction_factor=FACTOR)
    (low, high), dropout, mu = RANGES.values()
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"lr": tune.loguniform(low, high), "dropout": tune.uniform(*dropout), "mu": tune.uniform(*mu)},
        tune_config=tune.TuneConfig(
            metric="fid",
            mode="min",
            num_samples=trials,
            scheduler=asha,
            search_alg=ConcurrencyLimiter(OptunaSearch(seed=0), max_concurrent=CONCURRENT),
            reuse_actors=is_helped or None,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    )
    return len(tuner.fit())


class Allocations:
    """Watches what Python has allocated when 40 % of the trials have started, and when the last one has."""

    def __init__(self, trials: int) -> None:
        self.counts = (int(0.4 * trials), trials)
        self.snapshots: list[tracemalloc.Snapshot] = []
        self.seen: set[str] = set()

    def on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "trial_started" and event["trial"] not in self.seen:
            self.seen.add(event["trial"])
            if len(self.seen) in self.counts:
                gc.collect()
                self.snapshots.append(tracemalloc.take_snapshot())

    def on_progress(self, trial: str, images: int, images_per_second: float) -> None:
        """Nothing stays of it."""

    def report(self) -> None:
        """Print what has been added per trial, by file."""
        first, last = self.snapshots
        files = last.compare_to(first, "filename")
        num = self.counts[1] - self.counts[0]
        total = sum(one.size_diff for one in files) / num / 1000
        print(f"{total:.1f} kB stay with each of {num} further trials; most of it was allocated in")
        for one in files[:8]:
            file = "/".join(Path(one.traceback[0].filename).parts[-3:])
            print(f"  {one.size_diff / num / 1000:5.1f} kB  {file}")


METHODS = {
    "ours, asha promotion": lambda trials, folder: ours(trials, folder, "promotion"),
    "ours, asha stopping": lambda trials, folder: ours(trials, folder, "stopping"),
    "Tune": lambda trials, folder: tunes(trials, folder, is_helped=False),
    "Tune, helped": lambda trials, folder: tunes(trials, folder, is_helped=True),
}


class Memory(threading.Thread):
    """Watches this process: resident megabytes over time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float]] = []

    def run(self) -> None:
        import psutil

        process, started = psutil.Process(), time.monotonic()
        while True:
            self.samples.append((time.monotonic() - started, process.memory_info().rss / 1e6))
            time.sleep(0.5)

    def at(self, share: float) -> float:
        """Megabytes when a share of the time was over."""
        end = self.samples[-1][0]
        return next(megabytes for seconds, megabytes in self.samples if seconds >= share * end)


def measure(method: str, trials: int, allocations: Allocations | None = None) -> dict[str, Any]:
    """Figures of one method, in this process."""
    import logging

    if method.startswith("ours"):
        from gcsearch.tuning.cluster import QUIET

        os.environ.update(QUIET)
    if method == "Tune, helped":
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address="local", num_cpus=CONCURRENT, _node_ip_address="127.0.0.1", dashboard_host="127.0.0.1",
        log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        METHODS[method](CONCURRENT, Path(tempfile.mkdtemp(dir=name)))  # imports, first processes
        memory = Memory()
        memory.start()
        started, used = time.monotonic(), time.process_time()
        if allocations is None:
            count = METHODS[method](trials, Path(tempfile.mkdtemp(dir=name)))
        else:
            tracemalloc.start()
            count = ours(trials, Path(tempfile.mkdtemp(dir=name)), "promotion", [allocations])
            tracemalloc.stop()
        seconds, driver_seconds = time.monotonic() - started, time.process_time() - used
    ray.shutdown()
    megabytes = [memory.at(share) for share in (0.1, 0.25, 0.5, 0.75, 1.0)]
    return {
        "method": method,
        "trials": count,
        "seconds": seconds,
        "trials_per_second": count / seconds,
        "driver_cpu_seconds": driver_seconds,
        "driver_megabytes": megabytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--allocations", action="store_true", help="what stays of a trial in the memory of our driver")
    parser.add_argument("--only", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.trials)))
        return
    if arguments.allocations:
        allocations = Allocations(arguments.trials)
        measure("ours, asha promotion", arguments.trials, allocations)
        allocations.report()
        return
    rows = []
    print("| method | trials | seconds | trials/s | driver's CPU seconds | driver's MB at 10, 25, 50, 75, 100 % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for method in arguments.methods:
        command = [sys.executable, __file__, "--only", method, "--trials", str(arguments.trials)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        memory = ", ".join(f"{one:.0f}" for one in row["driver_megabytes"])
        print(
            f"| {method} | {row['trials']} | {row['seconds']:.0f} | {row['trials_per_second']:.2f} | "
            f"{row['driver_cpu_seconds']:.0f} | {memory} |",
            flush=True,
        )
    if arguments.json:
        import ray

        machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}
        content = {"rows": rows, "machine": machine, "ray": ray.__version__, "python": platform.python_version()}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
