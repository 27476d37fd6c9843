"""How long `gcsearch report` takes for a large study, and how large its page is.

The study is made up: eight parameters, eight rungs of which most trials see few, sample grids, finalists on three
seeds. The command runs in a process of its own; the shortest of the runs counts, since other work on the machine only
adds.

    python benchmarks/report.py --trials 500 --runs 3
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gcsearch.ledger import LEDGER_NAME
from gcsearch.metrics.grid import write_png

RUNGS = tuple(range(64_000, 512_001, 64_000))
KEPT = (1.0, 0.5, 0.33, 0.33, 0.2, 0.2, 0.15, 0.15)
"""Share of the trials that reaches each rung."""

IDENTITY = (
    "metric=fid | extractor=digits@1 | reference=digits@2 x1797 | num_samples={} | sampler=one_step | "
    "quantisation=clip_round_uint8"
)


def study(folder: Path, num_trials: int) -> Iterator[dict[str, Any]]:
    """Events of a study; sample grids are written on the way."""
    random = np.random.default_rng(0)
    objective = {"metric": "fid", "key": "eval/fid", "goal": "minimize", "use": "last"}
    keys = ["coupling.mu", "optimizer", "timesteps", "network.dropout", "distance.c", "ema.max_decay", "process"]
    yield {"event": "study_started", "study": folder.name, "objective": objective, "keys": keys} | {
        "horizon_images": RUNGS[-1]
    }

    def train(trial: str, params: dict[str, Any], end: float, num: int, samples: int, **more: Any) -> Iterator[Any]:
        yield {"event": "trial_started", "trial": trial, "params": params, "config": {}} | more
        for images in RUNGS[:num]:
            score = end * (1 + 8 * float(np.exp(-images / 90_000))) + float(random.normal(0, 0.1))
            costs = {"cost/train_seconds": images / 4000, "cost/forward_units": 4.2 * images}
            metrics = {"eval/fid": score, "eval/kid": score / 100, "train/loss": 0.1} | costs
            identities = {"eval/fid": IDENTITY.format(samples)}
            result = {"event": "result", "trial": trial, "images": images, "metrics": metrics}
            yield result | {"identities": identities}
            path = folder / f"trials/{trial}/samples/{images:09d}.png"
            write_png(path, torch.from_numpy(random.integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)))
            yield {"event": "samples", "trial": trial, "images": images, "path": path.relative_to(folder).as_posix()}
        state = "completed" if num == len(RUNGS) else "stopped"
        yield {"event": "trial_ended", "trial": trial, "state": state, "images": RUNGS[num - 1]}

    ranks = random.permutation(num_trials)
    for number in range(num_trials):
        mu, optimizer = float(random.random()), ("lion", "adam")[number % 2]
        params = {
            "coupling.mu": mu,
            "optimizer": optimizer,
            "optimizer.lr": float(10 ** random.uniform(-5, -3)),
            "timesteps": ("fixed", "exponential")[number // 2 % 2],
            "network.dropout": float(random.uniform(0, 0.3)),
            "distance.c": float(10 ** random.uniform(-4, -2)),
            "ema.max_decay": float(random.uniform(0.99, 0.9999)),
            "process": ("ve", "bridge")[number // 4 % 2],
        }
        num = sum(ranks[number] < share * num_trials for share in KEPT)
        end = 3 + 4 * (mu - 0.4) ** 2 + 0.5 * (optimizer == "adam")
        yield from train(f"{number:04d}", params, end, num, 2000, kind="trial", seed=0)
    candidates = [f"{number:04d}" for number in np.argsort(ranks)[:3]]
    yield {"event": "finalists_started", "candidates": candidates, "seeds": [1, 2, 3]}
    for candidate in candidates:
        for seed in (1, 2, 3):
            more = {"kind": "finalist", "candidate": candidate, "seed": seed}
            yield from train(f"{candidate}-s{seed}", {}, 3.0 + int(candidate) / 1000, len(RUNGS), 10_000, **more)
    yield {"event": "study_ended"}


def write_study(folder: Path, num_trials: int) -> None:
    """The study's folder."""
    folder.mkdir(parents=True)
    time_at, lines = datetime(2026, 1, 1, tzinfo=UTC), []
    for event in study(folder, num_trials):
        time_at += timedelta(seconds=1)
        lines.append(json.dumps({"time": time_at.isoformat()} | event))
    (folder / LEDGER_NAME).write_text("\n".join(lines) + "\n")


def measure(studies: Path, output: Path) -> tuple[float, float]:
    """Seconds on the wall and of CPU time of one run of the command."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "gcsearch.cli.main", "report", "large"]
    subprocess.run([*command, "--studies", str(studies), "--output", str(output)], check=True, capture_output=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        studies, output = Path(place) / "studies", Path(place) / "report"
        write_study(studies / "large", arguments.trials)
        runs = [measure(studies, output) for _ in range(arguments.runs)]
        page = (output / "report.html").stat().st_size / 1e6
    print("| trials | wall (s), shortest | CPU time (s), least | page (MB) |\n| --- | --- | --- | --- |")
    wall, cpu = (min(column) for column in zip(*runs, strict=True))
    print(f"| {arguments.trials} | {wall:.1f} | {cpu:.1f} | {page:.2f} |")


if __name__ == "__main__":
    main()
