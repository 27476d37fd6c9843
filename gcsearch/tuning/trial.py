"""What runs in a trial's processes: one training, with Ray as the messenger.

A trial of one process trains in the process that Tune gives it. A trial of several starts them with Ray Train, and
Tune's process only passes their messages on. The trainer is the same and knows nothing of Ray.

A message is one of ``{"samples": [images, path]}``, ``{"progress": [images, images_per_second]}``, ``{"result": ...}``
at a rung, and at last ``{"outcome": {"state": ..., "reason": ...}}``. Progress and result may bring ``"usage": [images,
metrics]`` with them. A trial of several processes also says where it is: ``{"placed": id}`` with its placement group,
or ``{"unplaced": workers}`` if it got none. ``{"halted": reason}`` is for what no trial can get past: a full disk.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from gcsearch.config import Experiment
from gcsearch.config.imports import add_search_paths
from gcsearch.data import Dataset, Examples
from gcsearch.errors import disk_full, is_disk_full
from gcsearch.files import supply
from gcsearch.training import Result, Trainer
from gcsearch.training.distributed import Group, TorchGroup, WorkerLost
from gcsearch.training.teacher_stage import teacher_file
from gcsearch.tuning.alike import check_here
from gcsearch.tuning.cluster import PLACE_TIMEOUT_S, QUIET, worker_bundle
from gcsearch.tuning.shipping import unpack
from gcsearch.tuning.workspaces import open_workspace

MESSAGE: Final = "gcsearch"
"""Key of our messages in Tune's reports."""

COMMUNICATION_TIMEOUT_S: Final = 2 * 3600
"""Longest wait of one process for another: while the first one evaluates or computes a reference. Ray ends all
processes of a training as soon as one of them is gone, so this bounds nothing else."""


@lru_cache(maxsize=1)
def _examples(dataset: Dataset) -> Examples:
    """The data set, loaded once per process; reused processes find it here."""
    return dataset.load()


def _train(config: dict[str, Any], send: Callable[..., None], device: Any, group: Group) -> None:
    """Train one trial and tell its outcome.

    Args:
        config: ``experiment`` (plain data), ``directory`` (of the trial) and ``folder`` (of the study, for machines
            that do not see it), ``start`` (its number), ``reported_images`` (what the driver already has), ``cpus``
            (of a worker), ``paths`` (folders of the user's own modules), ``modules`` (the same as an archive, for
            machines that lack them), ``files`` (the recipe's, for machines that lack them) and ``code`` (of the
            driver, if there are other machines).
        send: Takes a message as a keyword argument. Every process of the trial calls it, with the same messages.
        device: Where to train.
        group: The processes of the trial.
    """
    import ray
    import torch

    if config["code"] is not None:
        check_here(config["code"])
    add_search_paths(config["paths"], config["modules"])
    torch.set_num_threads(config["cpus"])
    experiment = Experiment.from_dict(config["experiment"], source=f"trial {config['trial']}")
    supply(unpack(config["files"], experiment, ray.get))
    if (stage := experiment.teacher_stage) is not None:
        teacher_file(stage)  # the driver has trained all that it could foresee

    usage: dict[str, Any] = {}

    def on_usage(images: int, metrics: dict[str, float]) -> None:
        usage["usage"] = [images, metrics]  # goes with the next message: each costs a round trip

    def send_with_usage(**message: Any) -> None:
        send(**message, **usage)
        usage.clear()

    def report(result: Result) -> None:
        send_with_usage(result=dataclasses.asdict(result))

    def progress(images: int, images_per_second: float) -> None:
        send_with_usage(progress=[images, images_per_second])

    # Only the first process reads and writes files; the others need a name.
    folder = config["folder"] if group.is_first else b""
    with open_workspace(folder, Path(config["directory"]), config["start"]) as workspace:

        def on_samples(images: int, path: Path) -> None:
            if group.is_first:
                workspace.publish(path)
            send(samples=[images, path.name])

        outcome = Trainer(
            experiment,
            examples=_examples(experiment.data),
            directory=workspace.directory,
            device=device,
            report=report,
            progress=progress,
            on_samples=on_samples,
            on_usage=on_usage,
            on_checkpoint=workspace.publish,
            reported_images=config["reported_images"],
            group=group,
        ).fit()
    send(outcome={"state": outcome.state, "reason": outcome.reason})


def _send_to_tune(**message: Any) -> None:
    from ray import tune

    # As text: Tune flattens nested reports.
    tune.report({MESSAGE: json.dumps(message)})


def describe(error: BaseException) -> str:
    """An error as a reason for failure."""
    text = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory. {LESS_MEMORY}. {text}"
    return text


LESS_MEMORY: Final = "Lower training.batch_size, or let fewer trials share a machine (resources.concurrent)"


def why_lost(error: BaseException) -> str:
    """Why a process is gone, as Ray tells it: at length, and with the cause somewhere in it."""
    text = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    if "NODE_OUT_OF_MEMORY" in text or "running low on memory" in text or type(error).__name__ == "OutOfMemoryError":
        line = next(line for line in text.splitlines() if "memory" in line.lower())  # others: Ray's store, processes
        told = line if line.startswith(type(error).__name__) else f"{type(error).__name__}: {line.strip()}"
        return f"its process was ended because its machine ran out of memory. {LESS_MEMORY}. {told}"
    if "killed by SIGKILL" in text or "connection error code 2" in text:
        cause = f"its process was killed, as a machine does that runs out of memory. If it did: {LESS_MEMORY}. "
    else:
        cause = ""
    return cause + text[-2000:]


def _tell(error: BaseException) -> None:
    """Tell an error of the training: it is the trial's, unless every other trial would meet it too."""
    if isinstance(error, OSError) and is_disk_full(error):
        _send_to_tune(halted=disk_full(error.filename or platform.node()))
    else:
        _send_to_tune(outcome={"state": "failed", "reason": describe(error)})


def run_trial(config: dict[str, Any]) -> None:
    """Train one trial in this process; for `config` see `_train`, with ``gpus``."""
    try:
        _train(config, _send_to_tune, "cuda" if config["gpus"] > 0 else "cpu", Group())
    except Exception as error:
        # Told here because Tune does not pass the error on in time; raised all the same, so that a process whose CUDA
        # context may be broken is not used again.
        _tell(error)
        raise


def run_trial_on_workers(config: dict[str, Any]) -> None:
    """Train one trial in several processes, which Ray Train starts; for `config` see `_train`.

    Raises:
        TrainingFailedError: A process is gone; the driver decides whether to start again. An error of the training
            itself is told as the outcome first.
    """
    # Where the cluster is not ours, Ray's processes have not inherited these. They only count before Train starts.
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(PLACE_TIMEOUT_S))
    from fsspec.implementations.memory import MemoryFileSystem
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from gcsearch.tuning.network import NodeTorchConfig

    has_gpu = config["gpus"] > 0
    bundle = worker_bundle(config["cpus"], config["gpus"])
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config=config,
        torch_config=NodeTorchConfig(backend="nccl" if has_gpu else "gloo", timeout_s=COMMUNICATION_TIMEOUT_S),
        scaling_config=ScalingConfig(num_workers=config["workers"], use_gpu=has_gpu, resources_per_worker=bundle),
        run_config=RunConfig(
            name=f"train-{config['trial']}",
            # Checkpoints are ours; Train would only make a folder, which no machine but the driver's could clean up.
            storage_path="/",
            storage_filesystem=PyFileSystem(FSSpecHandler(MemoryFileSystem())),
            callbacks=[TuneReportCallback()],  # type: ignore[no-untyped-call,list-item]
            # The driver starts a trial again, and counts; retries at several levels would multiply.
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        if fault := fault_in([failure for _, failure in sorted(error.worker_failures.items())]):
            _tell(fault)
        raise
    except ControllerError as error:
        if "StartupTimeout" in type(error.controller_failure).__name__:
            _send_to_tune(unplaced=config["workers"])
        raise


def fault_in(failures: Sequence[BaseException]) -> BaseException | None:
    """The error of the training among what ended its processes; None if one of them is just gone.

    When a process dies, the others fail too, with errors that say nothing. When one raises, they lose it.

    Args:
        failures: As Ray Train has them: what a process raised, or an error of Ray's about what happened to it.
    """
    errors = [getattr(failure, "_base_exc", failure) for failure in failures]
    if any(type(error).__module__.startswith("ray.") for error in errors):
        return None
    return next((error for error in errors if not isinstance(error, WorkerLost)), None)


def _run_worker(config: dict[str, Any]) -> None:
    """One of the processes of a trial."""
    import ray
    from ray import train
    from ray.train.torch import get_device

    def send(**message: Any) -> None:
        train.report({MESSAGE: json.dumps(message)})

    placed = ray.util.get_current_placement_group()
    if placed is not None:
        send(placed=placed.id.hex())
    device = get_device()
    _train(config, send, device, TorchGroup(device, timedelta(seconds=COMMUNICATION_TIMEOUT_S)))
