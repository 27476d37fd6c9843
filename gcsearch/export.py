"""What a study hands over: the best recipe, its weights, its samples, and where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gcsearch.analysis.results import StudyResults
from gcsearch.config import Experiment, build, load_experiment
from gcsearch.config.documents import dump_yaml
from gcsearch.errors import CheckpointError, ConfigError, StudyError
from gcsearch.files import write_text
from gcsearch.ledger import TrialRecord
from gcsearch.metrics.evaluate import generate
from gcsearch.metrics.grid import write_png
from gcsearch.science.networks.base import initialize
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.samplers import OneStep, Sampler
from gcsearch.selection import Replicates
from gcsearch.training import load_checkpoint

RECIPE, WEIGHTS, SAMPLES, CARD, PROVENANCE = (
    "best.yaml",
    "model.safetensors",
    "samples.png",
    "MODEL_CARD.md",
    "provenance.json",
)
GRID_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A trained model that can be sampled.

    Attributes:
        experiment: How it was trained.
        function: Its consistency function, with the averaged weights.
    """

    experiment: Experiment
    function: ConsistencyFunction

    def sample(self, num: int, *, seed: int, sampler: Sampler) -> torch.Tensor:
        """The first `num` samples of the common latents of `seed`: uint8 images, or float32 points."""
        data = self.experiment.data
        is_image = len(data.event_shape) == 3
        return generate(self.function, sampler, 0, num, seed=seed, source=data.draw_source, is_image=is_image)[0]


def load_model(path: Path) -> LoadedModel:
    """Model from the folder of an export or from a checkpoint file. Runs no code from either.

    Raises:
        CheckpointError: There is no model, or it is damaged.
    """
    if path.is_dir():
        if not (path / WEIGHTS).is_file() or not (path / RECIPE).is_file():
            raise CheckpointError(f"{path}: is not an export; it must hold {RECIPE} and {WEIGHTS}.")
        experiment = load_experiment(path / RECIPE)
        try:
            weights = load_file(path / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path / WEIGHTS}: cannot be read ({error}). Export the study again.") from None
    else:
        checkpoint = load_checkpoint(path)
        experiment = Experiment.from_dict(checkpoint.config, source=str(path))
        weights = checkpoint.average
    network = initialize(experiment.network, experiment.data.event_shape, seed=0)
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise CheckpointError(f"{path}: the weights do not fit the network that the recipe names.") from None
    return LoadedModel(
        experiment=experiment,
        function=ConsistencyFunction(network, experiment.process, experiment.training.precision),
    )


TWO_STEP_LEVEL = 0.821
"""Level of the second step, iCT's choice for CIFAR-10 with sigma_data 0.5."""


def steps_sampler(experiment: Experiment, steps: int, levels: tuple[float, ...] | None = None) -> Sampler:
    """Sampler of `steps` network evaluations.

    Args:
        experiment: Gives the process; for one step without levels its own sampler is not consulted.
        steps: Evaluations per sample; ignored if `levels` are given.
        levels: Levels of the evaluations after the first, decreasing. By default 0.821 for two steps, and the inner
            points of the process's grid for more.

    Raises:
        ConfigError: Levels that are not decreasing or lie outside the process.
    """
    process = experiment.process
    if levels is None:
        if steps == 1:
            return OneStep()
        levels = (TWO_STEP_LEVEL,) if steps == 2 else tuple(process.grid(steps + 1).tolist()[-2:0:-1])
    if not process.sigma_min < min(levels) <= max(levels) < process.sigma_max:
        raise ConfigError(
            f"--levels must lie between sigma_min = {process.sigma_min} and sigma_max = {process.sigma_max}, got "
            f"{list(levels)}."
        )
    sampler: Sampler = build("sampler", {"name": "multistep", "levels": list(levels)})
    return sampler


def export_trial(results: StudyResults, output: Path, trial: str | None = None) -> TrialRecord:
    """Write the best trial, or the one asked for, to the folder `output`.

    Args:
        results: The study.
        output: Folder, created if missing; files of an earlier export are replaced.
        trial: Number of the trial; None takes the winner.

    Returns:
        The trial's record.

    Raises:
        StudyError: There is no such trial, or none has completed.
    """
    record = _choose(results, trial)
    use_best = results.state.study["objective"]["use"] == "best"
    folder = results.directory / ("" if record.kind == "training" else f"trials/{record.trial}")
    checkpoint = load_checkpoint(folder / "checkpoints" / ("best.pt" if use_best else "latest.pt"))
    experiment = Experiment.from_dict(record.config, source=f"trial {record.trial}")

    output.mkdir(parents=True, exist_ok=True)
    write_text(output / RECIPE, _recipe(results, record))
    weights = {name: tensor.clone().contiguous() for name, tensor in checkpoint.average.items()}
    save_file(weights, output / WEIGHTS, metadata={"config": json.dumps(record.config), "weights": "averaged (EMA)"})
    model = load_model(output)
    if len(experiment.data.event_shape) == 3:
        evaluation = experiment.evaluation
        images = model.sample(GRID_SAMPLES, seed=evaluation.seed, sampler=evaluation.sampler)
        write_png(output / SAMPLES, images)
    provenance = _provenance(results, record)
    write_text(output / PROVENANCE, json.dumps(provenance, indent=2) + "\n")
    write_text(output / CARD, _card(results, record, experiment))
    return record


def _choose(results: StudyResults, trial: str | None) -> TrialRecord:
    if trial is None:
        winner = results.winner()
        if winner is None:
            raise StudyError(
                f"study '{results.name}': no trial has completed, so there is no winner. Run the study to its end, or "
                "name a trial with --trial."
            )
        return winner
    number, dash, seed = trial.partition("-")
    record = results.state.trials.get(f"{number.zfill(4)}{dash}{seed}")
    if record is None:
        known = [record.trial for record in results.searched()]
        finalists = ", ".join(record.trial for record in results.finalists())
        raise StudyError(
            f"study '{results.name}': has no trial {trial}. Trials: {known[0]} to {known[-1]}"
            f"{f'; finalists: {finalists}' if finalists else ''}."
        )
    if not record.results:
        raise StudyError(f"study '{results.name}': trial {record.trial} has no result yet, so it has no checkpoint.")
    return record


def score_text(results: StudyResults, record: TrialRecord) -> str:
    """The objective with its extractor, e.g. ``FID (digits features) 2.12``."""
    value, extractor = results.value(record), results.extractor()
    name = results.metric.removeprefix("eval/").upper().replace("_", " ")
    return f"{name} ({extractor} features) {value:.4g}" if value is not None else f"no {name}"


def replicates_of(results: StudyResults, record: TrialRecord) -> Replicates | None:
    """The recipe's trainings on fresh seeds, if `record` is one of them and all are done."""
    recipes = results.selection.recipes if results.selection is not None else ()
    found = next((recipe for recipe in recipes if record in recipe.records), None)
    return found if found is not None and found.is_complete and found.is_finite else None


def mean_text(replicates: Replicates) -> str:
    """Mean with its interval, e.g. ``2.41, 95 % interval 2.30 to 2.52, over 3 fresh seeds``."""
    interval = replicates.interval
    assert interval is not None
    return (
        f"{interval.mean:.4g}, 95 % interval {interval.low:.4g} to {interval.high:.4g}, over {interval.num} fresh seeds"
    )


def _recipe(results: StudyResults, record: TrialRecord) -> str:
    replicates = replicates_of(results, record)
    lines = [
        f"Trial {record.trial} of the study '{results.name}': {score_text(results, record)}, {record.images:,} images,",
        "one training with one seed. The score was used to choose it among others, so it flatters.",
        "Train it again with: gcsearch train best.yaml",
    ]
    if replicates is not None:
        lines[1] = f"one of its recipe's trainings, whose mean is {mean_text(replicates)}: expect that."
    cpus = results.state.study.get("cpus_per_worker", 1)
    if cpus != 1:
        lines[-1] += f" --cpus-per-worker {cpus}"
    return "".join(f"# {line}\n" for line in lines) + dump_yaml(record.config)


def _provenance(results: StudyResults, record: TrialRecord) -> dict[str, Any]:
    study = results.state.study
    return {
        "study": results.name,
        "study_id": study.get("study_id"),
        "trial": record.trial,
        "kind": record.kind,
        "candidate": record.candidate,
        "finalists": None if results.selection is None else results.selection.to_dict(),
        "state": record.state,
        "fingerprint": record.fingerprint,
        "recipe": record.recipe,
        "images": record.images,
        "params": record.params,
        "metrics": record.results[-1].metrics,
        "identities": record.results[-1].identities,
        "trained": {"from": record.started, "to": record.ended},
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        **study.get("provenance", {}),
    }


def _card(results: StudyResults, record: TrialRecord, experiment: Experiment) -> str:
    """Model card: what it is, how good, for what, and its limits."""
    value = results.value(record)
    identity = record.results[-1].identities.get(results.metric, "unknown")
    varied = "\n".join(f"| `{key}` | {value} |" for key, value in record.params.items())
    counts = ", ".join(f"{count} {state}" for state, count in results.counts().items())
    replicates = replicates_of(results, record)
    meaning = (
        f"It comes from one training with one seed, and was used to choose this trial (study: {counts}): expect a "
        "fresh seed to score worse."
    )
    if replicates is not None:
        meaning = (
            f"The recipe's score is **{mean_text(replicates)}**, seeds that the search ({counts}) never saw. Expect "
            "that of another training; these weights are one of those trainings."
        )
    seconds = record.results[-1].metrics.get("cost/train_seconds", 0.0)
    return f"""# {results.name}, trial {record.trial}

Consistency model for `{experiment.data.name}`, trained with the coupling `{experiment.coupling.name}`.

![Samples](samples.png)

## Score

{score_text(results, record)}, at {record.images:,} images seen, in {seconds:.0f} s of training.

- What the number is: `{identity}`
- {meaning}
- It may be compared only with scores of the same identity. FID on `{results.extractor()}` features is not the FID on
  Inception features that papers report, unless it says so.
{"" if value is not None else "- The trial has no value of the objective."}
## Recipe

What the study varied, and what this trial used:

| parameter | value |
| --- | --- |
{varied or "| (nothing) | |"}

The complete recipe is `best.yaml`; `gcsearch train best.yaml` trains it again, to the same score on the same machine.

## Use

- `gcsearch sample . --num 64` draws a grid; `--steps 2` spends two network evaluations on each sample.
- Weights: `model.safetensors`, averaged over training (EMA).
- Intended for research on training recipes. The samples follow the training data and nothing else; the model has no
  filter, no labels and no prompt.

## Licence

The weights' licence is for you to choose; the data's own terms apply (`{experiment.data.name}`).

## Sources

- T. Issenhuth et al., Improving Consistency Models with Generator-Augmented Flows (arXiv:2406.09570).
- Y. Song, P. Dhariwal, Improved Techniques for Training Consistency Models (arXiv:2310.14189).
- Y. Song et al., Consistency Models (arXiv:2303.01469).
"""
