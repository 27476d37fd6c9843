"""What bf16 and torch.compile change: single steps beside those in fp32, and the scores of whole trainings.

    OMP_NUM_THREADS=1 nice -n 10 taskset -c 0 python benchmarks/numerics.py --experiment digits --images 54000 --seeds 6

Steps: all variants follow the weights of a training in fp32. At every tenth of its steps each takes loss and gradient
of the same batch with the same random numbers; stated is the largest difference, relative to that of fp32.

Scores: every variant trains with every seed. Latents are common and a seed gives all variants the same weights, data
and noise to begin with; but rounding is amplified as training goes on, so the differences are to be compared with those
between seeds. Stated are means over seeds, the standard deviation over seeds in fp32, and the mean difference to fp32
of the same seed with its standard error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcsearch.config import Experiment, find_experiment, load_experiment
from gcsearch.data import Examples
from gcsearch.data.batches import Batches
from gcsearch.science.randomness import draw_step
from gcsearch.training import Trainer
from gcsearch.training.step import Learner, gradients_of

VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32", "compile": False},
    "bf16": {"precision": "bf16", "compile": False},
    "fp32, compiled": {"precision": "fp32", "compile": True},
}
PLAIN = "fp32"
LOOK_EVERY = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="digits", help="name or path")
    parser.add_argument("--images", type=int, default=54_000, help="of each training, which is evaluated at its end")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200, help="of the training that single steps are taken along")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {arguments.seeds}")

    torch.set_num_threads(1)
    experiment = load_experiment(find_experiment(arguments.experiment))
    training = replace(experiment.training, num_images=arguments.images)
    evaluation = replace(experiment.evaluation, every_images=arguments.images)
    experiment = replace(experiment, training=training, evaluation=evaluation)
    examples, device = experiment.data.load(), torch.device(arguments.device)
    result = {
        "steps": compare_steps(experiment, examples, device, arguments.steps),
        "scores": compare_scores(experiment, examples, device, arguments.seeds),
    }
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result | {"torch": torch.__version__}, indent=2) + "\n")


def in_variant(experiment: Experiment, variant: str, seed: int = 0) -> Experiment:
    """The experiment in one of the variants."""
    return replace(experiment, seed=seed, training=replace(experiment.training, **VARIANTS[variant]))


def compare_steps(
    experiment: Experiment, examples: Examples, device: torch.device, num_steps: int
) -> dict[str, dict[str, float]]:
    """Largest relative difference of loss and of gradient to fp32, at the same weights, of every other variant."""
    learners = {variant: Learner(in_variant(experiment, variant), device) for variant in VARIANTS}
    batches = Batches(examples, experiment.training.batch_size, 0, device)
    found: dict[str, dict[str, float]] = {variant: {"loss": 0.0, "gradient": 0.0} for variant in VARIANTS}
    plain = learners[PLAIN]
    for step in range(num_steps):
        draws = draw_step(0, step, experiment.training.batch_size, experiment.data.draw_source, device)
        if step % LOOK_EVERY == 0:
            loss, gradient = loss_and_gradient(plain, batches[step], draws, step)
            for variant, learner in learners.items():
                learner.network.load_state_dict(plain.network.state_dict())
                learner.average.load_state_dict(plain.average.state_dict())
                other_loss, other = loss_and_gradient(learner, batches[step], draws, step)
                worst = found[variant]
                worst["loss"] = max(worst["loss"], float((other_loss - loss).abs() / loss.abs()))
                worst["gradient"] = max(worst["gradient"], float((other - gradient).norm() / gradient.norm()))
        plain.step(batches[step], draws, step)
    return {variant: found[variant] for variant in VARIANTS if variant != PLAIN}


def loss_and_gradient(learner: Learner, data: Tensor, draws: Any, step: int) -> tuple[Tensor, Tensor]:
    """Loss of a step, and all of its gradient in one vector."""
    losses, _ = learner.differentiate(data, draws, step)
    return losses[0], torch.cat([gradient.flatten().double() for gradient in gradients_of(learner.network)])


def compare_scores(
    experiment: Experiment, examples: Examples, device: torch.device, num_seeds: int
) -> dict[str, dict[str, float]]:
    """First score of trainings with seeds 0, 1, ... in every variant."""
    key = f"eval/{experiment.evaluation.scores[0].keys[0]}"
    values: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for seed in range(num_seeds):
        for variant in VARIANTS:
            started = time.process_time()
            outcome = Trainer(in_variant(experiment, variant, seed), examples=examples, device=device).fit()
            values[variant].append(outcome.results[-1].metrics[key])
            seconds[variant].append(time.process_time() - started)
    plain = values[PLAIN]
    table = {}
    for variant, scores in values.items():
        differences = [score - base for score, base in zip(scores, plain, strict=True)]
        table[variant] = {
            "mean": statistics.mean(scores),
            "deviation": statistics.stdev(scores),
            "difference": statistics.mean(differences),
            "error": statistics.stdev(differences) / num_seeds**0.5,
            "seconds": statistics.median(seconds[variant]),
        }
    return table


def show(result: dict[str, Any]) -> None:
    """Print both tables."""
    print("| at the same weights | loss | gradient |\n| --- | --- | --- |")
    for variant, worst in result["steps"].items():
        print(f"| {variant} | {worst['loss']:.1e} | {worst['gradient']:.1e} |")
    print("\n| trainings | score | deviation | minus fp32 | CPU seconds |\n| --- | --- | --- | --- | --- |")
    for variant, row in result["scores"].items():
        difference = "" if variant == PLAIN else f"{row['difference']:+.4g} +- {row['error']:.2g}"
        print(f"| {variant} | {row['mean']:.4g} | {row['deviation']:.2g} | {difference} | {row['seconds']:.1f} |")


if __name__ == "__main__":
    main()
