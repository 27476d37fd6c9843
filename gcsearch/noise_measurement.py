"""Measures the noise of an ablation's reference: its trained weights on several sets of latents. Trains nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from gcsearch.ablations import Plan
from gcsearch.config import Experiment
from gcsearch.errors import StudyError
from gcsearch.export import load_model
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, TrialRecord, read_events
from gcsearch.metrics.evaluate import Evaluator
from gcsearch.training.judge import Judge

NUM_DRAWS: Final = 5
"""Sets of latents: that of the evaluations in training, and those of the seeds after it."""

PARTS: Final = (4, 2, 1)
"""Shares of the ablation's samples that are scored: a quarter, half, and, last, all."""


def measure_noise(directory: Path, *, cpus: int = 1, on_score: Callable[[int, int], None] = lambda *_: None) -> int:
    """Score every completed training of the reference on every set of latents, going on where an earlier run stopped.

    Fewer samples are the first of the same latents, so that sizes differ in nothing else. Computed on the CPU with as
    many threads as trainings have there: the scores on the first set are then the very ones that trainings recorded.

    Args:
        directory: Folder of the ablation, with its checkpoints.
        cpus: Threads.
        on_score: Told how many of all sets are through, and how many there are.

    Returns:
        Number of sets of samples that were drawn.

    Raises:
        StudyError: Fewer than two trainings of the reference have completed.
        CheckpointError: The weights of one are missing or damaged.
    """
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        state = StudyState(read_events(directory / LEDGER_NAME))
        records = reference_records(state, directory)
        known = {(event["trial"], event["latents_seed"], event["num_samples"]) for event in state.noise}
        todo = []
        for record in records:
            evaluation = record.config["evaluation"]
            seeds = range(evaluation["seed"], evaluation["seed"] + NUM_DRAWS)
            todo += [(record, seed) for seed in seeds if (record.trial, seed, evaluation["num_samples"]) not in known]
        threads = torch.get_num_threads()
        torch.set_num_threads(cpus)
        try:
            _measure(directory, ledger, todo, on_score)
        finally:
            torch.set_num_threads(threads)
    return len(todo)


def reference_records(state: StudyState, directory: Path) -> list[TrialRecord]:
    """Completed trainings of an ablation's reference, by seed.

    Raises:
        StudyError: The study is a search, or there are fewer than two.
    """
    if state.ablation is None:
        raise StudyError(f"{directory}: noise is measured in ablations, but this is a search.")
    reference = Plan.from_dict(state.ablation).arms[0]
    records = [record for record in state.of_state("completed") if record.arm == reference]
    if len(records) < 2:
        raise StudyError(
            f"{directory}: at least two trainings of the arm '{reference}' must have completed before its noise can be "
            f"measured, got {len(records)}. Run the ablation to its end first."
        )
    return sorted(records, key=lambda record: record.seed)


def _measure(
    directory: Path,
    ledger: LedgerWriter,
    todo: Sequence[tuple[TrialRecord, int]],
    on_score: Callable[[int, int], None],
) -> None:
    evaluator: Evaluator | None = None
    for number, (record, seed) in enumerate(todo):
        on_score(number, len(todo))
        function = load_model(directory / "trials" / record.trial / "checkpoints" / "latest.pt").function
        if evaluator is None:  # of all trainings of an arm alike
            experiment = Experiment.from_dict(record.config, source=f"trial {record.trial}")
            evaluator = Judge(experiment, experiment.data.load(), torch.device("cpu")).evaluator
        drawn = dataclasses.replace(evaluator, seed=seed)
        samplers = experiment.evaluation.samplers
        shards = {name: drawn.draws.shard(function, 0, drawn.num_samples, one) for name, one in samplers.items()}
        if not all(shard.is_finite for shard in shards.values()):
            raise StudyError(
                f"{directory}: samples must be finite, but those of trial {record.trial} on the latents of seed {seed} "
                "are not, so its noise cannot be measured."
            )
        for part in PARTS:
            num = drawn.num_samples // part
            if num < drawn.scorer.min_samples:
                continue
            sized = dataclasses.replace(drawn, num_samples=num)
            ledger.append(
                "noise_scored",
                trial=record.trial,
                latents_seed=seed,
                num_samples=num,
                metrics={
                    f"eval/{key}{name}": value
                    for name, shard in shards.items()
                    for key, value in drawn.scorer.scores(shard.features[:num]).items()
                },
                identities={
                    f"eval/{key}{name}": identity
                    for name, sampler in samplers.items()
                    for key, identity in sized.identities_with(sampler).items()
                },
            )
    on_score(len(todo), len(todo))
