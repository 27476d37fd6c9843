"""The training loop: restore, evaluate, save, stop, step. The same function runs inline, under Ray and in a test."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from gcsearch.config import Experiment
from gcsearch.data import Examples
from gcsearch.data.batches import Batches
from gcsearch.errors import CheckpointError, TrialDiverged
from gcsearch.metrics.grid import grid_name
from gcsearch.science.randomness import draw_step
from gcsearch.training.checkpoint import Checkpoint, copy_checkpoint, load_own_checkpoint
from gcsearch.training.distributed import Group, check_same_weights
from gcsearch.training.judge import Judge
from gcsearch.training.step import Learner
from gcsearch.training.usage import Usage

COUNTERS = ("train_seconds", "evaluation_seconds", "forward_units", "loss_sum", "grad_norm_sum", "window_steps")
"""Running numbers of a training; the last three cover the steps since the last result."""

SUMS = ("forward_units", "loss_sum", "grad_norm_sum")
"""Counters that are added up on the device, and read from it by `Trainer.settle`."""

TELLS_PER_USAGE = 30
"""Between two rungs, the machine's usage is summed up with every so many progress reports: about once a minute."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Scores at one rung.

    Attributes:
        images: The rung, in images. Training has seen up to one batch more if the batch size does not divide it.
        metrics: Named numbers, e.g. ``eval/fid``, ``train/loss``, ``cost/train_seconds``.
        identities: What each ``eval/`` number means; only equal identities may be compared.
    """

    images: int
    metrics: dict[str, float]
    identities: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a training ended.

    Attributes:
        state: ``completed`` at the horizon, ``stopped`` by the caller, ``diverged``.
        reason: Why, if not completed.
        results: All results, in order.
    """

    state: Literal["completed", "stopped", "diverged"]
    reason: str | None
    results: tuple[Result, ...]


class Trainer:
    """Trains one experiment.

    Args:
        experiment: The recipe.
        examples: The data set, from `experiment.data.load()`; callers may share one between trainings.
        directory: Folder for checkpoints and sample grids; None keeps nothing. If it holds a checkpoint of the same
            experiment, training goes on from there, bit for bit as if it had not been interrupted.
        device: Where to train. On a GPU no step waits for the one before: losses are read, and divergence is found out,
            at results and checkpoints and every few seconds.
        report: Receives every result, in order; after a resume, first those that the checkpoint holds beyond
            `reported_images`.
        should_stop: Asked before every step; True ends the training as ``stopped``.
        progress: Receives images seen and images per second every few seconds.
        on_samples: Receives images seen and the path of each sample grid.
        on_usage: Receives images seen and how busy the machine was (`gcsearch.training.usage`), before the result of
            each rung and about once a minute, but not more often than once a second.
        on_checkpoint: Receives the path of each checkpoint that was written; in the first process only.
        reported_images: Images of the last result that the caller already has.
        checkpoint_seconds: Longest time between two checkpoints.
        group: The processes that share every batch; this one alone by default. Each makes a trainer with the same
            arguments and calls `fit`. Each evaluates a share of the samples; the first one writes files and is asked
            whether to stop; all of them report, and all end alike.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        examples: Examples | None = None,
        directory: Path | None = None,
        device: torch.device | str = "cpu",
        report: Callable[[Result], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, float], None] = lambda *_: None,
        on_samples: Callable[[int, Path], None] = lambda *_: None,
        on_usage: Callable[[int, dict[str, float]], None] = lambda *_: None,
        on_checkpoint: Callable[[Path], None] = lambda _: None,
        reported_images: int = 0,
        checkpoint_seconds: float = 120.0,
        group: Group | None = None,
    ) -> None:
        self.experiment = experiment
        self.group = Group() if group is None else group
        self.device = torch.device(device)
        self.directory = directory
        self.report = report
        self.should_stop = should_stop
        self.progress = progress
        self.on_samples = on_samples
        self.on_usage = on_usage
        self.on_checkpoint = on_checkpoint
        self.reported_images = reported_images
        self.checkpoint_seconds = checkpoint_seconds

        examples = experiment.data.load() if examples is None else examples
        training = experiment.training
        self.batches = Batches(examples, training.batch_size, experiment.seed, self.device)
        self.is_image = examples.is_image
        # Where the first process has a reference to compute, the others wait in `restore`.
        self.judge = Judge(experiment, examples, self.device, self.group)
        self.learner = Learner(experiment, self.device, self.group)
        self.step = 0
        self.results: list[Result] = []
        self.counters = dict.fromkeys(COUNTERS, 0.0)
        self._saved_at = self._told_at = time.monotonic()
        self._told_step = self._num_told = 0
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self.device)
        self.usage = Usage(self.device)

    def fit(self) -> Outcome:
        """Train to the horizon, or until stopped or diverged."""
        self.restore()
        try:
            while True:
                if self.is_due():
                    self.evaluate()
                    self.save()
                    self._tell_usage(self.results[-1].images)
                    self.report(self.results[-1])
                if self.is_done():
                    return self.outcome("completed")
                must_save = time.monotonic() - self._saved_at > self.checkpoint_seconds
                must_stop = self.group.is_first and self.should_stop()
                # All at once, since `settle` may end the training.
                must_save, must_tell, must_stop = self.group.agree(must_save, self._must_tell(), must_stop)
                if must_save or must_tell or must_stop:
                    self.settle()
                if must_save:
                    self.save()
                if must_tell:
                    self._tell_progress()
                if must_stop:
                    return self.outcome("stopped")
                if not self.is_due():  # a batch may reach two rungs at once
                    self.train_step()
        except TrialDiverged as error:
            if error.step is not None:
                self.step = error.step
            return self.outcome("diverged", str(error))

    def is_done(self) -> bool:
        """Whether every rung has its result."""
        return len(self.results) == len(self.experiment.rungs)

    def is_due(self) -> bool:
        """Whether the next rung is reached."""
        images = self.step * self.experiment.training.batch_size
        return not self.is_done() and images >= self.experiment.rungs[len(self.results)]

    def outcome(self, state: Literal["completed", "stopped", "diverged"], reason: str | None = None) -> Outcome:
        """The end of the training as the caller gets it."""
        return Outcome(state=state, reason=reason, results=tuple(self.results))

    def train_step(self) -> None:
        """One optimizer step, timed; on a GPU it is only begun, and `settle` waits for it."""
        started = time.perf_counter()
        training = self.experiment.training
        draws = draw_step(
            self.experiment.seed, self.step, training.batch_size, self.experiment.data.draw_source, self.device
        )
        report = self.learner.step(self.batches[self.step], draws, self.step)
        self.step += 1
        self._sums += torch.stack([report.forward_units, report.loss, report.grad_norm])
        self.counters["window_steps"] += 1
        self.counters["train_seconds"] += time.perf_counter() - started

    def settle(self) -> None:
        """Wait for the steps that were begun, and read from the device what they have said.

        Raises:
            TrialDiverged: One of them was not made, nor any after it.
        """
        started = time.perf_counter()
        self.learner.guard.check()
        self.counters.update(zip(SUMS, self._sums.tolist(), strict=True))
        self.counters["train_seconds"] += time.perf_counter() - started

    def _must_tell(self, every_seconds: float = 2.0) -> bool:
        return self.step > self._told_step and time.monotonic() - self._told_at >= every_seconds

    def _tell_progress(self) -> None:
        elapsed = time.monotonic() - self._told_at
        batch_size = self.experiment.training.batch_size
        self._num_told += 1
        if self._num_told % TELLS_PER_USAGE == 0:
            self._tell_usage(self.step * batch_size)
        else:
            self.usage.sample()
        self.progress(self.step * batch_size, (self.step - self._told_step) * batch_size / elapsed)
        self._told_at, self._told_step = time.monotonic(), self.step

    def _tell_usage(self, images: int) -> None:
        if usage := self.usage.take():
            self.on_usage(images, usage)

    def evaluate(self) -> None:
        """Score the current weights at the rung that is due and remember the result.

        Raises:
            TrialDiverged: A step, score or diagnostic is not finite, or the network's output has collapsed to a
                constant.
        """
        self.settle()
        started = time.perf_counter()
        images = self.experiment.rungs[len(self.results)]
        check_same_weights(self.group, self.learner.network)
        judgement = self.judge(self.learner.models, max(0, self.step - 1))
        scores = judgement.scores
        self.write_samples(images)
        self.counters["evaluation_seconds"] += time.perf_counter() - started

        broken = [name for name, value in scores.items() if not math.isfinite(value)]
        if broken:
            raise TrialDiverged(f"{images} images: {', '.join(broken)} must be finite. The network has diverged.")
        # A small network that has hardly trained looks the same, so the first rung does not count.
        if judgement.collapsed and self.results:
            raise TrialDiverged(f"{images} images: all samples are the same. The network has collapsed to a constant.")

        counters, steps = self.counters, self.counters["window_steps"]
        if steps == 0:  # the same step has reached two rungs
            window = {name: self.results[-1].metrics[name] for name in ("train/loss", "train/grad_norm")}
        else:
            sums = {"train/loss": counters["loss_sum"], "train/grad_norm": counters["grad_norm_sum"]}
            window = {name: total / steps for name, total in sums.items()}
        metric = self.experiment.evaluation.scores[0]
        first, lowest = f"eval/{metric.keys[0]}", metric.lower_is_better
        history = [result.metrics[first] for result in self.results] + [scores[first]]
        training = self.experiment.training
        stage = self.experiment.timesteps.stage(max(0, self.step - 1), training.num_steps)
        metrics = scores | {
            first.replace("eval/", "best/"): min(history) if lowest else max(history),
            **window,
            **{f"schedule/{name}": value for name, value in stage.items()},
            "cost/step": float(self.step),
            "cost/train_seconds": counters["train_seconds"],
            "cost/evaluation_seconds": counters["evaluation_seconds"],
            "cost/forward_units": counters["forward_units"],
            "progress/images_per_second": self.step * training.batch_size / max(counters["train_seconds"], 1e-9),
        }
        self.results.append(Result(images=images, metrics=metrics, identities=judgement.identities))
        for name in ("loss_sum", "grad_norm_sum", "window_steps"):
            counters[name] = 0.0
        self._put_sums()

    def _put_sums(self) -> None:
        """Go on adding up from the counters."""
        self._sums = torch.tensor([self.counters[name] for name in SUMS], dtype=torch.float64, device=self.device)

    def write_samples(self, images: int) -> None:
        """Write the sample grid after `images` images, if the data are images."""
        if self.directory is None or not self.is_image:
            return
        path = self.directory / "samples" / grid_name(images)
        if self.group.is_first:
            self.judge.write_grid(self.learner.models, path)
        self.on_samples(images, path)

    @property
    def latest_path(self) -> Path | None:
        """Where the latest checkpoint goes."""
        return None if self.directory is None else self.directory / "checkpoints" / "latest.pt"

    def save(self) -> None:
        """Write the latest checkpoint, and keep it as the best one if the last result is the best so far.

        The first process writes, and nobody waits for it. The steps before must be settled.
        """
        self._saved_at = time.monotonic()
        path = self.latest_path
        if path is None or not self.group.is_first:
            return
        learner = self.learner
        predictor_average, target, companion = learner.predictor_average, learner.target, learner.companion
        Checkpoint(
            fingerprint=self.experiment.fingerprint,
            config=self.experiment.to_dict(),
            step=self.step,
            network=self.learner.network.state_dict(),
            average=self.learner.average.state_dict(),
            optimizer=self.learner.optimizer.state_dict(),
            results=[dataclasses.asdict(result) for result in self.results],
            counters=dict(self.counters),
            predictor_average={} if predictor_average is None else predictor_average.state_dict(),
            frozen_sha256=learner.frozen_sha256,
            teacher_sha256=learner.teacher_sha256,
            target={} if target is None else target.state_dict(),
            companion={} if companion is None else companion.state_dict(),
            companion_optimizer={} if learner.companion_optimizer is None else learner.companion_optimizer.state_dict(),
        ).save(path)
        self.on_checkpoint(path)
        self._keep_best()

    def _keep_best(self) -> None:
        """Copy the latest checkpoint beside it as the best one, if it was written at the best rung so far."""
        path = self.latest_path
        if path is None or not self.results or self.counters["window_steps"] > 0:
            return
        first = self.experiment.evaluation.scores[0].keys[0]
        metrics = self.results[-1].metrics
        if metrics[f"eval/{first}"] == metrics[f"best/{first}"]:
            best = path.with_name("best.pt")
            copy_checkpoint(path, best)
            self.on_checkpoint(best)

    def check_checkpoint(self) -> Checkpoint | None:
        """The latest checkpoint of this experiment, if there is one.

        Raises:
            CheckpointError: It cannot be read, or belongs to another experiment, frozen predictor or teacher.
        """
        path = self.latest_path
        if path is None:
            return None
        # Via the host where the checkpoint goes on to other processes, which have other devices.
        checkpoint = load_own_checkpoint(path, self.experiment, self.device if self.group.size == 1 else "cpu")
        if checkpoint is not None and checkpoint.frozen_sha256 != self.learner.frozen_sha256:
            raise CheckpointError(
                f"{path}: the frozen predictor must be the one this training began with, got other weights in "
                "coupling.checkpoint. Use another folder, or put the old file back."
            )
        if checkpoint is not None and checkpoint.teacher_sha256 != self.learner.teacher_sha256:
            raise CheckpointError(
                f"{path}: the teacher must be the one this training began with, got other weights in "
                "objective.teacher. Use another folder, or put the old file back."
            )
        return checkpoint

    def restore(self) -> None:
        """Go on from the latest checkpoint, if there is one; report what the caller has not seen."""
        checkpoint = self.group.from_first(self.check_checkpoint)
        if checkpoint is None:
            self.write_samples(0)
            return
        self.step = self._told_step = checkpoint.step
        self.learner.network.load_state_dict(checkpoint.network)
        self.learner.average.load_state_dict(checkpoint.average)
        if self.learner.predictor_average is not None:
            self.learner.predictor_average.load_state_dict(checkpoint.predictor_average)
        if self.learner.target is not None:
            self.learner.target.load_state_dict(checkpoint.target)
        self.learner.optimizer.load_state_dict(checkpoint.optimizer)
        if self.learner.companion is not None and self.learner.companion_optimizer is not None:
            self.learner.companion.load_state_dict(checkpoint.companion)
            self.learner.companion_optimizer.load_state_dict(checkpoint.companion_optimizer)
        self.counters = dict(checkpoint.counters)
        self._put_sums()
        for stored in checkpoint.results:
            self.results.append(Result(**stored))
        if self.group.is_first:
            self._keep_best()  # the process may have died between the two files
        for result in self.results:
            if result.images > self.reported_images:
                self.report(result)
