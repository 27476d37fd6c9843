"""How much more several trials at a time train than one, on all cores of a machine or on one GPU.

    python benchmarks/packing.py --experiment digits --json packing.json
    python benchmarks/packing.py --experiment cifar10 --batch-size 4 --seconds 60
    python benchmarks/packing.py --experiment digits --device cuda --most 32

Every trial is a process of its own that trains for the same seconds, counted once all are set up. On a CPU: one trial
on one thread, two trials of one thread, and so on up to the cores; and one trial on 2, 4, ... threads. On a GPU: 1, 2,
4, ... trials that share it. Rounds go through all of these in turn; ratios are medians over rounds. `used` is the
processor time of the trials per second: below the number of threads, other work on the machine has taken part of it.
Images per second of processor time, beside those of one trial, say how much trials that run together hinder each other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from gcsearch.config import Experiment, find_experiment, load_experiment
from gcsearch.data import Examples
from gcsearch.data.batches import Batches
from gcsearch.errors import DataError
from gcsearch.science.randomness import draw_step
from gcsearch.training.step import Learner

NUM_STAND_INS = 2_000
LEAD_SECONDS = 0.5
"""Between the word to start and the start, so that all trials have heard it."""


@dataclass(frozen=True)
class Packing:
    """How many trials at a time, of how many threads each."""

    trials: int
    threads: int

    def __str__(self) -> str:
        trials = "1 trial" if self.trials == 1 else f"{self.trials} trials"
        return f"{trials} of {self.threads} thread{'s' if self.threads > 1 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="digits", help="name or path")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for gcsearch train")
    parser.add_argument("--batch-size", type=int, help="images a step; default: the recipe's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--most", type=int, help="most trials at a time; default: the cores, and 16 on a GPU")
    parser.add_argument("--seconds", type=float, default=5.0, help="of every measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    batch = [] if arguments.batch_size is None else [f"training.batch_size={arguments.batch_size}"]
    assignments = [*arguments.set, *batch]
    cores = os.cpu_count() or 1
    most = arguments.most or (cores if arguments.device == "cpu" else 16)
    packings = [Packing(trials, 1) for trials in doubled(most)]
    if arguments.device == "cpu":
        packings += [Packing(1, threads) for threads in doubled(cores)[1:]]
    trials = [Trial(arguments.experiment, assignments, arguments.device) for _ in range(most)]
    for trial in trials:
        trial.wait_until_ready()
    rates: dict[Packing, list[float]] = {packing: [] for packing in packings}
    used: dict[Packing, list[float]] = {packing: [] for packing in packings}
    for number in range(arguments.rounds):
        for packing in packings if number % 2 == 0 else reversed(packings):
            start = time.monotonic() + LEAD_SECONDS
            working = trials[: packing.trials]
            for trial in working:
                trial.start(start, arguments.seconds, packing.threads)
            answers = [trial.answer() for trial in working]
            rates[packing].append(sum(images / seconds for images, seconds, _ in answers))
            used[packing].append(sum(cpu / seconds for _, seconds, cpu in answers))
    for trial in trials:
        trial.end()
    rows = [
        {
            **asdict(packing),
            "images_per_second": statistics.median(rates[packing]),
            "used": statistics.median(used[packing]),
            "per_cpu_second_to_one": statistics.median(
                one / busy / (first / first_busy)
                for one, busy, first, first_busy in zip(
                    rates[packing], used[packing], rates[packings[0]], used[packings[0]], strict=True
                )
            ),
            "to_one": statistics.median(a / b for a, b in zip(rates[packing], rates[packings[0]], strict=True)),
        }
        for packing in packings
    ]
    print(f"\n{arguments.experiment} on {arguments.device}, {' '.join(assignments) or 'as it is'}")
    print(
        "| at a time | images/s | to one trial | used | per CPU second, to one trial |\n| --- | --- | --- | --- | --- |"
    )
    for packing, row in zip(packings, rows, strict=True):
        cells = f"{row['images_per_second']:.4g} | {row['to_one']:.2f} | {row['used']:.2f}"
        print(f"| {packing} | {cells} | {row['per_cpu_second_to_one']:.2f} |")
    if arguments.json:
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "cpus": cores,
            "gpu": torch.cuda.get_device_name() if arguments.device == "cuda" else None,
            "load": os.getloadavg()[0],
            "torch": torch.__version__,
        }
        content = {"experiment": arguments.experiment, "assignments": assignments, "rows": rows, "machine": machine}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def doubled(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`, which is always the last."""
    return sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | {most})


class Trial:
    """A process that trains when it is told to."""

    def __init__(self, name: str, assignments: list[str], device: str) -> None:
        context = get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, name, assignments, device), daemon=True)
        self._process.start()

    def wait_until_ready(self) -> None:
        self._pipe.recv()

    def start(self, at: float, seconds: float, threads: int) -> None:
        self._pipe.send((at, seconds, threads))

    def answer(self) -> tuple[int, float, float]:
        """Images seen, seconds of the clock and of the processor."""
        images, seconds, cpu = self._pipe.recv()
        return images, seconds, cpu

    def end(self) -> None:
        self._pipe.send(None)
        self._process.join()


def work(pipe: Connection, name: str, assignments: list[str], device_name: str) -> None:
    """Life of a trial's process."""
    torch.set_num_threads(1)
    experiment, device = load_experiment(find_experiment(name), assignments), torch.device(device_name)
    training = experiment.training
    batches = Batches(examples_of(experiment), training.batch_size, experiment.seed, device)
    learner, steps = Learner(experiment, device), 0

    def step() -> None:
        nonlocal steps
        draws = draw_step(experiment.seed, steps, training.batch_size, experiment.data.draw_source, device)
        learner.step(batches[steps], draws, steps)
        steps += 1

    for _ in range(3):
        step()
    learner.guard.check()  # waits for a GPU
    pipe.send(None)
    while (told := pipe.recv()) is not None:
        at, seconds, threads = told
        torch.set_num_threads(threads)
        time.sleep(max(0.0, at - time.monotonic()))
        cpu, first, begun = time.process_time(), steps, time.monotonic()
        while time.monotonic() < begun + seconds:
            step()
        learner.guard.check()
        pipe.send(((steps - first) * training.batch_size, time.monotonic() - begun, time.process_time() - cpu))


def examples_of(experiment: Experiment) -> Examples:
    """The data, or random bytes where they are not prepared: pixels do not change the time."""
    try:
        return experiment.data.load()
    except DataError:
        return Examples(torch.randint(0, 256, (NUM_STAND_INS, *experiment.data.event_shape), dtype=torch.uint8))


if __name__ == "__main__":
    main()
