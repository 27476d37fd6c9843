"""Evaluation in several processes of one machine, with the same result as in one."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gcsearch.errors import WorkerError
from gcsearch.metrics.evaluate import Evaluation, Evaluator, whole_batches
from gcsearch.metrics.features import Extractor
from gcsearch.metrics.reference import BATCH_SIZE, extract
from gcsearch.science.preconditioning import ConsistencyFunction


def evaluate_in_processes(evaluator: Evaluator, function: ConsistencyFunction, num_workers: int) -> Evaluation:
    """What `evaluator.evaluate(function)` gives, computed by several processes.

    Every sample has the latents, and the batch, that it has in one process, and each process uses as many threads as
    this one, so the result is the same to the last bit on a CPU.

    Args:
        evaluator: Protocol.
        function: Consistency function, on the evaluator's device.
        num_workers: Processes. One means this process.

    Raises:
        WorkerError: A process ended before its work was done.
    """
    draws = dataclasses.replace(evaluator.draws)  # without what the original has cached
    tasks = [partial(draws.shard, function, start, stop) for start, stop in evaluator.bounds(num_workers)]
    return evaluator.merge(run_tasks(tasks, num_workers))


def extract_in_processes(
    extractor: Extractor, examples: Tensor, device: torch.device | str, num_workers: int
) -> Tensor:
    """Features (N, d) of examples (N, *event), computed by several processes, in whole batches each."""
    # Copies, because a slice travels with all of the tensor that it was cut from.
    tasks = [
        partial(_extract, extractor, examples[start:stop].clone(), device)
        for start, stop in whole_batches(len(examples), BATCH_SIZE, num_workers)
    ]
    return torch.cat(run_tasks(tasks, num_workers))


def _extract(extractor: Extractor, examples: Tensor, device: torch.device | str) -> Tensor:
    return extract(extractor.load(device), examples, device)


def run_tasks(tasks: Sequence[Callable[[], Any]], num_workers: int) -> list[Any]:
    """Results of independent tasks, in order; in this process if there is one worker or one task.

    Tasks and results travel as plain bytes: torch would put tensors into shared memory, which is scarce in containers.
    """
    if num_workers < 2 or len(tasks) < 2:
        return [task() for task in tasks]
    pool = ProcessPoolExecutor(
        min(num_workers, len(tasks)),
        mp_context=multiprocessing.get_context("spawn"),  # a fork would inherit locks of torch's threads
        initializer=torch.set_num_threads,
        initargs=(torch.get_num_threads(),),
    )
    try:
        futures = [pool.submit(_run, pickle.dumps(task)) for task in tasks]
        return [pickle.loads(future.result()) for future in futures]
    except BrokenProcessPool:
        raise WorkerError(
            f"evaluation: all {len(tasks)} worker processes must finish, but one was ended from outside, perhaps for "
            "want of memory. Use fewer --workers."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run(task: bytes) -> bytes:
    return pickle.dumps(pickle.loads(task)())  # our own bytes
