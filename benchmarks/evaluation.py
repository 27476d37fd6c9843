"""What an evaluation costs, part by part, and its share of a training's time.

    python benchmarks/evaluation.py digits fashion_mnist --json evaluation.json
    python benchmarks/evaluation.py cifar10 --batch-size 4 --samples 1000
    python benchmarks/evaluation.py digits --train          # the share in a whole training, as the trainer counts it
    python benchmarks/evaluation.py digits --memory         # the most memory of steps, and of an evaluation

Rates of training, sampling and features are measured on a few images (random ones where the data are not prepared:
pixels do not change the time) and multiplied by the recipe's numbers. Metrics are measured on random features in the
recipe's numbers; where these are beyond --samples, on fewer, and multiplied by how the metric's work grows. Every
evaluation scores two networks, the averaged and the online one. One thread; seconds are CPU time, or those of the clock
on a GPU. Prints one table per experiment.

Memory is measured in a fresh process: what it holds at most while it trains a few steps, and then while it samples,
computes features and scores; on a CPU all of the process (Linux), on a GPU what torch has allocated there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from gcsearch.config import Experiment, find_experiment, load_experiment
from gcsearch.data import Examples
from gcsearch.data.batches import Batches
from gcsearch.data.image_set import ImageSet
from gcsearch.errors import DataError, WeightsError
from gcsearch.metrics.base import SampleMetric
from gcsearch.metrics.evaluate import Draws, piece_size
from gcsearch.metrics.features import Extractor
from gcsearch.metrics.inception import InceptionExtractor
from gcsearch.metrics.kernel import MAX_MAPPED
from gcsearch.metrics.reference import ReferenceFeatures
from gcsearch.science.randomness import draw_step
from gcsearch.training import Trainer
from gcsearch.training.step import Learner

NUM_STAND_INS = 2_000
NETWORKS = 2
"""The averaged and the online one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help="names or paths")
    parser.add_argument(
        "--batch-size", type=int, help="images of the measured steps and samples; default: as in trainings"
    )
    parser.add_argument("--samples", type=int, default=10_000, help="most features that metrics are measured on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train", action="store_true", help="also run the whole training")
    parser.add_argument("--memory", action="store_true", help="also measure the memory")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    results = []
    for name in arguments.experiments:
        experiment = load_experiment(find_experiment(name))
        result = Measurement(experiment, torch.device(arguments.device), arguments.batch_size, arguments.samples).run()
        if arguments.train:
            result["share_in_training"] = trained_share(experiment, arguments.device)
        if arguments.memory:
            told = name, arguments.device, arguments.batch_size, arguments.samples
            with get_context("spawn").Pool(1) as pool:
                result["peak_megabytes"] = pool.apply(peaks, told)
        show(result)
        results.append(result)
    if arguments.json:
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "device": arguments.device,
        }
        arguments.json.write_text(
            json.dumps({"results": results, "machine": machine, "torch": torch.__version__}, indent=2) + "\n"
        )


class Measurement:
    """Costs of one experiment.

    Args:
        experiment: The recipe.
        device: Where networks run.
        batch_size: Images of the measured steps and samples; None for those of a training.
        most: Most features that metrics are measured on.
    """

    def __init__(self, experiment: Experiment, device: torch.device, batch_size: int | None, most: int) -> None:
        self.experiment = experiment
        self.device = device
        self.step_size = batch_size or experiment.training.batch_size
        self.sample_size = batch_size or piece_size(self.step_size)
        self.most = most
        self.examples, self.num_real = examples_of(experiment)
        self.batches = Batches(self.examples, self.step_size, experiment.seed, device)
        self.learner = Learner(experiment, device)

    def run(self) -> dict[str, Any]:
        """Seconds of the parts, for one network and for the whole training."""
        experiment, evaluation = self.experiment, self.experiment.evaluation
        with tempfile.TemporaryDirectory() as folder:
            extractor = loadable(experiment.extractor, Path(folder))
            features = extractor.load(self.device)
            images = self.examples.values[: self.sample_size].to(self.device)
            num_batches = evaluation.num_samples / self.sample_size
            parts = {
                "sampling": self.seconds(self.sample) * num_batches,
                "features": self.seconds(lambda: features(images)) * num_batches,
            }
            num_features = features(images[:2]).shape[1]
        for metric in evaluation.scores:
            parts[metric.name] = self.metric(metric, num_features, extractor)
        trained = self.seconds(self.step) * experiment.training.num_images / self.step_size
        evaluated = len(experiment.rungs) * NETWORKS * sum(parts.values())
        return {
            "experiment": experiment.name,
            "num_samples": evaluation.num_samples,
            "num_real": self.num_real,
            "evaluations": len(experiment.rungs),
            "training_seconds": trained,
            "seconds_per_network": parts,
            "evaluation_seconds": evaluated,
            "shares": {
                key: len(experiment.rungs) * NETWORKS * value / (trained + evaluated) for key, value in parts.items()
            },
            "share": evaluated / (trained + evaluated),
        }

    def step(self) -> None:
        """One training step."""
        source = self.experiment.data.draw_source
        draws = draw_step(self.experiment.seed, 0, self.step_size, source, self.device)
        self.learner.step(self.batches[0], draws, 0)

    def sample(self) -> None:
        """One batch of samples."""
        self.draws(self.experiment.extractor).samples(self.learner.models.ema, 0, self.sample_size)

    def draws(self, extractor: Extractor) -> Draws:
        """What draws samples in a training, in batches of the measured size."""
        return Draws(
            extractor=extractor,
            sampler=self.experiment.evaluation.sampler,
            seed=0,
            source=self.experiment.data.draw_source,
            is_image=self.examples.is_image,
            device=self.device,
            batch_size=self.sample_size,
        )

    def metric(self, metric: SampleMetric, num_features: int, extractor: Extractor) -> float:
        """Seconds of a metric for all samples of an evaluation."""
        num, num_real = self.experiment.evaluation.num_samples, self.num_real
        shrink = min(1.0, self.most / max(num, num_real))
        full = self.metric_at(metric, int(num * shrink), int(num_real * shrink), num_features, extractor)
        if shrink == 1:
            return full
        if metric.name == "precision_recall" or (metric.name == "kid" and num_features > MAX_MAPPED):
            return full / shrink**2  # one number for every pair
        half = self.metric_at(metric, int(num * shrink / 2), int(num_real * shrink / 2), num_features, extractor)
        return full + max(0.0, full - half) * (2 / shrink - 2)  # something fixed, and something for every sample

    def metric_at(
        self, metric: SampleMetric, num: int, num_real: int, num_features: int, extractor: Extractor
    ) -> float:
        generator = torch.Generator().manual_seed(0)
        generated, real = (torch.randn(size, num_features, generator=generator) for size in (num, num_real))
        reference = ReferenceFeatures.of(real, "0" * 64, extractor)
        return self.seconds(lambda: metric.compute(generated, reference))

    def seconds(self, function: Callable[[], object]) -> float:
        """Median of at least three, over a second, after one that is not counted: it computes what is kept."""
        function()
        values: list[float] = []
        while len(values) < 3 or sum(values) < 1:
            start = self.now()
            function()
            values.append(self.now() - start)
        return statistics.median(values)

    def now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def peaks(name: str, device_name: str, batch_size: int | None, most: int) -> dict[str, float]:
    """Most megabytes that this process has held: before the first step, in steps, in each part of an evaluation.

    Also how much of the library's code each has loaded, which is in memory once for all processes of a machine.
    """
    torch.set_num_threads(1)
    device = torch.device(device_name)
    experiment = load_experiment(find_experiment(name))
    measured = Measurement(experiment, device, batch_size, most)
    found = {"before": peak_megabytes(device)}
    for _ in range(5):
        measured.step()
    found |= {"steps": peak_megabytes(device), "steps, code": code_megabytes()}
    with tempfile.TemporaryDirectory() as folder:
        extractor = loadable(experiment.extractor, Path(folder))
        draws = measured.draws(extractor)
        num, num_real = (min(most, number) for number in (experiment.evaluation.num_samples, measured.num_real))
        function = measured.learner.models.ema
        draws.samples(function, 0, num)
        found |= {"samples": peak_megabytes(device), "samples, code": code_megabytes()}
        features = draws.shard(function, 0, num).features
        found |= {"features": peak_megabytes(device), "features, code": code_megabytes()}
    reference = ReferenceFeatures.of(torch.randn(num_real, features.shape[1]), "0" * 64, extractor)
    for metric in experiment.evaluation.scores:
        metric.compute(features, reference)
        found |= {metric.name: peak_megabytes(device), f"{metric.name}, code": code_megabytes()}
    return found


def code_megabytes() -> float:
    """Megabytes of files that this process has mapped, which are libraries (Linux)."""
    return float(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0]) * 1024 / 1e6


def peak_megabytes(device: torch.device) -> float:
    """Most megabytes since the last call."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most / 1e6
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    return float(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def examples_of(experiment: Experiment) -> tuple[Examples, int]:
    """The data or stand-ins for them, and their true number."""
    try:
        examples = experiment.data.load()
        return examples, len(examples)
    except DataError:
        assert isinstance(experiment.data, ImageSet)
        values = torch.randint(0, 256, (NUM_STAND_INS, *experiment.data.event_shape), dtype=torch.uint8)
        return Examples(values), experiment.data.num_published or NUM_STAND_INS


def loadable(extractor: Extractor, folder: Path) -> Extractor:
    """The extractor, or Inception with random weights if the published ones are not here: that takes the same time."""
    try:
        extractor.prepare()
    except WeightsError:
        from torch_fidelity import feature_extractor_inceptionv3 as module

        network = module.FeatureExtractorInceptionV3
        with patch.object(module, "load_state_dict_from_url"), patch.object(network, "load_state_dict"):
            torch.save(network("inception-v3-compat", ["2048"]).state_dict(), folder / "random.pth")
        return InceptionExtractor(weights=str(folder / "random.pth"))
    return extractor


def trained_share(experiment: Experiment, device: str) -> float:
    """Share of the evaluations in a whole training, by the clock."""
    metrics = Trainer(experiment, device=device).fit().results[-1].metrics
    return metrics["cost/evaluation_seconds"] / (metrics["cost/evaluation_seconds"] + metrics["cost/train_seconds"])


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"\n{result['experiment']}: {result['evaluations']} evaluations of {result['num_samples']:,} samples")
    print(f"| part | seconds | share |\n| --- | --- | --- |\n| training | {result['training_seconds']:.4g} | |")
    for key, value in result["seconds_per_network"].items():
        print(f"| {key}, one network | {value:.3g} | {result['shares'][key]:.2%} |")
    print(f"| all evaluations | {result['evaluation_seconds']:.4g} | {result['share']:.1%} |")
    for key, value in result.get("peak_megabytes", {}).items():
        print(f"| most memory, {key} | {value:.1f} MB | |")
    if "share_in_training" in result:
        print(f"| in a whole training, by the clock | | {result['share_in_training']:.1%} |")


if __name__ == "__main__":
    main()
