"""What a training step costs under each coupling, beside its floor and beside the step of the published code.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/step.py --experiment digits
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/step.py --experiment cifar10 --batch-size 8 --rounds 5
    python benchmarks/step.py --experiment cifar10 --device cuda --set training.precision=bf16
    ... and with --compiled

Every step draws its random numbers, takes its batch and moves the weights, as in a training. Rounds go through all
variants in turn, forwards and backwards, and ratios are medians over rounds: load on the machine falls on all alike.

- floor: network forwards counted, where backward costs two: 4 without and 4 + mu with generated end points, over 4.
- reference: `benchmarks/reference_step.py`, the step as the published code writes it, in fp32.
- compiled: the same step with `training.compile: true`, and the clock's seconds until its second step is done, which
  compile it, with no machine code kept from before.
- arithmetic: convolutions and matrix products of the step and nothing else, on inputs of the same shapes, in the same
  precision: what no step with this network can be faster than. Measured with the other variants.
- calls: tensor operations of a step, random draws and batch included.
- peak: largest rate of a square matrix product on this device, in the network's precision.

On one thread of a CPU all seconds are those the processor worked, else those of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from reference_step import ReferenceLearner, UnknownRecipe, channels_first
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gcsearch.config import Experiment, find_experiment, load_experiment
from gcsearch.data import Examples
from gcsearch.data.batches import Batches
from gcsearch.errors import DataError
from gcsearch.registry import spec
from gcsearch.science.couplings import Generator
from gcsearch.science.randomness import draw_step
from gcsearch.training.step import Learner

RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
IC, OT = "IC", "OT"
NUM_STAND_INS = 2_000
MIN_ROUND_SECONDS = 0.2
"""Of every variant in a round, so that a round is long beside the clock's and the scheduler's ticks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="digits", help="name or path")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for gcsearch train")
    parser.add_argument("--batch-size", type=int, help="images a step; default: the recipe's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="couplings beside IC, as in the table; default: all")
    parser.add_argument("--no-reference", action="store_true", help="leave out the published code's step")
    parser.add_argument("--compiled", action="store_true", help="time compiled steps too")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    torch.set_num_threads(arguments.threads)
    batch = [] if arguments.batch_size is None else [f"training.batch_size={arguments.batch_size}"]
    assignments = [*arguments.set, *batch]
    variants = variants_of(load_experiment(find_experiment(arguments.experiment), assignments))
    if unknown := set(arguments.only or ()) - set(variants):
        parser.error(f"--only must name couplings of {list(variants)}, got {sorted(unknown)}")
    if arguments.only:
        variants = {name: variant for name, variant in variants.items() if name in (IC, *arguments.only)}
    # Machine code that earlier runs have left would be taken.
    folder = tempfile.TemporaryDirectory()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder.name
    try:
        bench = Bench(variants, torch.device(arguments.device), not arguments.no_reference, arguments.compiled)
    except UnknownRecipe as error:
        parser.error(f"{error}. Use --no-reference.")
    result = bench.run(arguments.rounds)
    result["settings"] = {"assignments": assignments, "threads": arguments.threads, "device": arguments.device}
    result["machine"] = machine(bench.device)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def variants_of(experiment: Experiment) -> dict[str, Experiment]:
    """The recipe under each coupling, by its name; what else it says of its generator is kept."""
    coupling = spec(experiment.coupling) if isinstance(experiment.coupling, Generator) else {"name": "generator"}
    kinds = {IC: {"name": "independent"}, OT: {"name": "ot"}}
    kinds |= {f"GC mu={mu:g}": coupling | {"mu": mu, "mu_end": None} for mu in RATES}
    return {name: with_section(experiment, coupling=kind) for name, kind in kinds.items()}


def with_section(experiment: Experiment, **sections: Any) -> Experiment:
    """The experiment with other sections."""
    return Experiment.from_dict(experiment.to_dict() | sections)


class Bench:
    """Steps of one recipe under several couplings.

    Args:
        experiments: The recipe under each coupling, by its name.
        device: Where to train.
        with_reference: Whether the published code's step is timed too.
        with_compiled: Whether compiled steps are.
    """

    def __init__(
        self, experiments: dict[str, Experiment], device: torch.device, with_reference: bool, with_compiled: bool
    ) -> None:
        self.device = device
        # Of one thread the seconds it worked: those of the clock also hold what others did with its core.
        self.clock = 0 if device.type == "cpu" and torch.get_num_threads() == 1 else 1
        self.experiments = experiments
        self.first = next(iter(experiments.values()))
        training = self.first.training
        self.batches = Batches(examples_of(self.first), training.batch_size, self.first.seed, device)
        self.variants: dict[str, Callable[[], object]] = {}
        for name, experiment in experiments.items():
            self.variants[name] = self.stepper(experiment, Learner(experiment, device).step)
        if with_reference:
            for name in self.named(IC, "GC mu=0.5"):
                learner = ReferenceLearner(experiments[name], device)
                self.variants[f"reference {name}"] = self.stepper(experiments[name], learner.step)
        for name in self.named(IC, "GC mu=0", "GC mu=0.5", "GC mu=1") if with_compiled else ():
            compiled = with_training(experiments[name], compile=True)
            self.variants[f"compiled {name}"] = self.stepper(compiled, Learner(compiled, device).step)
        self.calls = recorded_calls(self.first, device)
        for name in self.named(IC, "GC mu=0.5"):
            rate = experiments[name].coupling.num_generated(training.batch_size, 0.0) / training.batch_size
            self.variants[f"arithmetic {name}"] = lambda rate=rate: self.arithmetic(rate)

    def named(self, *names: str) -> list[str]:
        """Those of the couplings that are measured."""
        return [name for name in names if name in self.experiments]

    def stepper(self, experiment: Experiment, step: Callable[..., object]) -> Callable[[], object]:
        """One more step of a training whose place in the schedules is its middle."""
        training, count = experiment.training, [training_middle(experiment)]

        def run() -> object:
            draws = draw_step(experiment.seed, count[0], training.batch_size, experiment.data.draw_source, self.device)
            report = step(self.batches[count[0]], draws, count[0])
            count[0] += 1
            return report

        return run

    def arithmetic(self, rate: float) -> None:
        """Convolutions and matrix products of a step: teacher, predictor on its share, student with its gradients."""
        precision = self.first.training.precision
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            for (layer, x), number in self.calls.items():
                share = x[: round(rate * len(x))]
                for _ in range(number):
                    with torch.no_grad():
                        layer(x)
                        if len(share):
                            layer(share)
                    output = layer(x)
                    torch.autograd.grad(output, [x, *layer.parameters()], grad_outputs=output.detach())

    def run(self, rounds: int) -> dict[str, Any]:
        """Seconds and ratios of all variants."""
        repeats, order, first_seconds = {}, list(self.variants), {}
        for name in order:  # the first two calls also set up, and compile
            first_seconds[name] = 2 * self.timed(name, 2)[1]
            self.timed(name, 2)
            seconds = self.timed(name, 1)[1]
            repeats[name] = max(1, round(MIN_ROUND_SECONDS / seconds))
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in order}
        for number in range(rounds):
            for name in order if number % 2 == 0 else reversed(order):
                times[name].append(self.timed(name, repeats[name]))
        used = {name: [pair[self.clock] for pair in pairs] for name, pairs in times.items()}
        rows = []
        for name in order:
            row: dict[str, Any] = {
                "variant": name,
                "cpu_seconds": statistics.median(pair[0] for pair in times[name]),
                "wall_seconds": statistics.median(pair[1] for pair in times[name]),
                "to_ic": ratio(used[name], used[IC]),
            }
            if name.startswith("compiled "):
                row["first_seconds"] = first_seconds[name]
                row["to_compiled_ic"] = ratio(used[name], used["compiled IC"])
            if name in self.experiments:
                experiment = self.experiments[name]
                size = experiment.training.batch_size
                generated = experiment.coupling.num_generated(size, 0.5)
                if not experiment.training.compile:
                    row["operations"] = num_operations(self.variants[name])
                row["floor"] = 1 + generated / size / 4
                row["to_floor"] = row["to_ic"][0] / row["floor"]
                if f"reference {name}" in used:
                    row["reference_to_it"] = ratio(used[f"reference {name}"], used[name])
                if f"compiled {name}" in used:
                    row["compiled_to_it"] = ratio(used[f"compiled {name}"], used[name])
                if f"arithmetic {name}" in used:
                    row["arithmetic_to_it"] = ratio(used[f"arithmetic {name}"], used[name])
            rows.append(row)
        flops, peak = self.flops(), self.peak()
        speed = flops / statistics.median(used[IC])
        return {
            "experiment": self.first.name,
            "batch_size": self.first.training.batch_size,
            "precision": self.first.training.precision,
            "compile": self.first.training.compile,
            "weights": sum(weight.numel() for weight in Learner(self.first, self.device).network.parameters()),
            "clock": ("cpu", "wall")[self.clock],
            "rounds": rounds,
            "rows": rows,
            "gflop_of_ic_step": flops / 1e9,
            "gflop_per_second": speed / 1e9,
            "peak_gflop_per_second": peak / 1e9,
            "peak_share": speed / peak,
        }

    def timed(self, name: str, repeats: int) -> tuple[float, float]:
        """Seconds of the processor and of the clock, per call."""
        variant = self.variants[name]
        with channels_first() if name.startswith("reference") else nullcontext():
            self.wait()
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(repeats):
                variant()
            self.wait()
        return (time.process_time() - cpu) / repeats, (time.perf_counter() - wall) / repeats

    def now(self) -> float:
        """Seconds of the clock that counts."""
        return (time.process_time(), time.perf_counter())[self.clock]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def flops(self) -> float:
        """Floating-point operations of the IC step, in convolutions and matrix products."""
        plain = load_plain(self.first)
        run = self.stepper(plain, Learner(plain, self.device).step)
        with FlopCounterMode(display=False) as counter:
            run()
        return float(counter.get_total_flops())

    def peak(self) -> float:
        """Operations per second of the fastest of a few square matrix products."""
        dtype = torch.bfloat16 if self.first.training.precision == "bf16" else torch.float32
        best = 0.0
        for size in (512, 1024, 2048) if self.device.type == "cpu" else (4096, 8192):
            a, b = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
            for _ in range(8):
                self.wait()
                started = self.now()
                a @ b
                self.wait()
                best = max(best, 2 * size**3 / (self.now() - started))
        return best


def recorded_calls(experiment: Experiment, device: torch.device) -> Counter[tuple[nn.Module, Tensor]]:
    """Convolutions and linear layers of a forward pass, with an input of the right shape, and how many are alike."""
    network = Learner(load_plain(experiment), device).network
    seen: dict[str, tuple[nn.Module, Tensor]] = {}
    counts: Counter[tuple[nn.Module, Tensor]] = Counter()

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        x = inputs[0]
        key = f"{layer} {tuple(x.shape)}"
        if key not in seen:
            seen[key] = layer, torch.randn_like(x).requires_grad_()
        counts[seen[key]] += 1

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(record)
    size = experiment.training.batch_size
    with torch.no_grad():
        network(torch.randn(size, *experiment.data.event_shape, device=device), torch.zeros(size, device=device), None)
    for layer in network.modules():
        layer._forward_hooks.clear()
    return counts


class Count(TorchDispatchMode):
    """Number of tensor operations."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.number += 1
        return function(*args, **(kwargs or {}))


def num_operations(run: Callable[[], object]) -> int:
    """Tensor operations of a call."""
    with Count() as count:
        run()
    return count.number


def load_plain(experiment: Experiment) -> Experiment:
    """The experiment without compilation, which would hide its operations."""
    return with_training(experiment, compile=False)


def with_training(experiment: Experiment, **settings: Any) -> Experiment:
    """The experiment with other settings of its training."""
    return with_section(experiment, training=experiment.to_dict()["training"] | settings)


def training_middle(experiment: Experiment) -> int:
    """A step in the middle of the schedules."""
    return experiment.training.num_steps // 2


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """Median over rounds, and the quartiles."""
    values = [one / other for one, other in zip(above, below, strict=True)]
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def examples_of(experiment: Experiment) -> Examples:
    """The data, or random bytes where they are not prepared: pixels do not change the time."""
    try:
        return experiment.data.load()
    except DataError:
        return Examples(torch.randint(0, 256, (NUM_STAND_INS, *experiment.data.event_shape), dtype=torch.uint8))


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    kind = f"{result['precision']}{', compiled' if result['compile'] else ''}"
    print(
        f"\n{result['experiment']}: {result['weights'] / 1e6:.3g} million weights, batch {result['batch_size']}, {kind}"
    )
    print(
        "| step | CPU ms | wall ms | to IC (quartiles) | floor | / floor | reference / it | arithmetic / it | calls |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in result["rows"]:
        middle, low, high = row["to_ic"]
        cells = [row["variant"], f"{row['cpu_seconds'] * 1e3:.4g}", f"{row['wall_seconds'] * 1e3:.4g}"]
        cells += [f"{middle:.3f} ({low:.3f} to {high:.3f})"]
        cells += [f"{row['floor']:.4g}", f"{row['to_floor']:.3f}"] if "floor" in row else ["", ""]
        cells += [f"{row[name][0]:.2f}" if name in row else "" for name in ("reference_to_it", "arithmetic_to_it")]
        cells += [str(row.get("operations", ""))]
        print(f"| {' | '.join(cells)} |")
    if any("compiled_to_it" in row for row in result["rows"]):
        print("\n| step | compiled / it (quartiles) | compiled, to compiled IC | first two compiled steps, s |")
        print("| --- | --- | --- | --- |")
        by_name = {row["variant"]: row for row in result["rows"]}
        for name, row in by_name.items():
            if "compiled_to_it" in row:
                middle, low, high = row["compiled_to_it"]
                its = by_name[f"compiled {name}"]
                cells = [f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{its['to_compiled_ic'][0]:.3f}"]
                print(f"| {name} | {' | '.join(cells)} | {its['first_seconds']:.3g} |")
    print(
        f"\nIC step: {result['gflop_of_ic_step']:.4g} GFLOP, {result['gflop_per_second']:.4g} GFLOP/s, "
        f"{result['peak_share']:.0%} of this device's best matrix product "
        f"({result['peak_gflop_per_second']:.4g} GFLOP/s)"
    )


if __name__ == "__main__":
    main()
