"""The folder of an export: the best recipe, its weights, its samples, and where they come from."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file

from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import objectives_text
from gcsearch.config import Experiment
from gcsearch.config.documents import dump_yaml
from gcsearch.errors import StudyError
from gcsearch.export.arms import best_training
from gcsearch.export.card import model_card
from gcsearch.export.model import RECIPE, WEIGHTS, load_model
from gcsearch.export.pipeline import FOLDER as PIPELINE
from gcsearch.export.pipeline import check_pipeline, write_pipeline
from gcsearch.export.wording import mean_text, replicates_of, score_text
from gcsearch.files import replacing, write_text
from gcsearch.ledger import TrialRecord
from gcsearch.metrics.grid import write_png
from gcsearch.metrics.identity import ScoreIdentity
from gcsearch.training import load_checkpoint

CONFIG: Final = "config.json"
SAMPLES: Final = "samples.png"
CARD: Final = "MODEL_CARD.md"
PROVENANCE: Final = "provenance.json"

GRID_SAMPLES: Final = 64


def export_trial(
    results: StudyResults, output: Path, trial: str | None = None, *, diffusers: bool = False
) -> TrialRecord:
    """Write the best trial, or the one asked for, to the folder `output`; of an ablation, the best arm's.

    Args:
        results: The study.
        output: Folder, created if missing; files of an earlier export are replaced.
        trial: Number of the trial; None takes the winner.
        diffusers: Whether to write the folder ``diffusers`` too: see `gcsearch.export.pipeline`.

    Returns:
        The trial's record.

    Raises:
        StudyError: There is no such trial, or none has completed.
        ConfigError: The recipe has no exact counterpart in diffusers, or that library is not installed.
    """
    record = _choose(results, trial)
    experiment = Experiment.from_dict(record.config, source=f"trial {record.trial}")
    if diffusers:
        check_pipeline(experiment)
    use_best = results.state.study["objective"]["use"] == "best"
    folder = results.directory / ("" if record.kind == "training" else f"trials/{record.trial}")
    checkpoint = load_checkpoint(folder / "checkpoints" / ("best.pt" if use_best else "latest.pt"))

    weights = {name: tensor.clone().contiguous() for name, tensor in checkpoint.average.items()}
    num_parameters = sum(tensor.numel() for tensor in weights.values())
    write_text(output / RECIPE, _recipe(results, record))
    with replacing(output / WEIGHTS) as temporary:
        # One entry of metadata: of several the order in the file is random, and equal weights are to be equal files.
        save_file(weights, temporary, metadata={"config": json.dumps(record.config)})
    model = load_model(output)
    if len(experiment.data.event_shape) == 3:
        evaluation = experiment.evaluation
        write_png(output / SAMPLES, model.draw(GRID_SAMPLES, seed=evaluation.seed, sampler=evaluation.sampler))
    else:
        (output / SAMPLES).unlink(missing_ok=True)  # of an earlier export
    shutil.rmtree(output / PIPELINE, ignore_errors=True)  # of an earlier export
    if diffusers:
        write_pipeline(model, output / PIPELINE)
    write_text(output / CONFIG, json.dumps(_config(experiment, num_parameters), indent=2) + "\n")
    write_text(output / PROVENANCE, json.dumps(_provenance(results, record), indent=2) + "\n")
    write_text(output / CARD, model_card(results, record, experiment, num_parameters, diffusers=diffusers))
    return record


def _choose(results: StudyResults, trial: str | None) -> TrialRecord:
    if trial is None and results.state.ablation is not None:
        return best_training(results)
    if trial is None:
        if results.has_front and (front := _front(results)):
            raise StudyError(
                f"study '{results.name}': has {len(results.objectives)} objectives, so it has no single best trial. "
                f"Name one of its front with --trial: {'; '.join(objectives_text(results, one) for one in front)}."
            )
        winner = results.winner()
        if winner is None:
            raise StudyError(
                f"study '{results.name}': no trial has completed, so there is no winner. Run the study to its end, or "
                "name a trial with --trial."
            )
        return winner
    number, dash, seed = trial.partition("-")
    digits = 4 if results.state.ablation is None else 2
    record = results.state.trials.get(f"{number.zfill(digits)}{dash}{seed}")
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


def _front(results: StudyResults) -> list[TrialRecord]:
    """One training of each recipe on the front: of the means over fresh seeds, or of the search without these."""
    selection = results.selection
    if selection is None or not selection.front:
        return results.front()
    return [recipe.records[0] for recipe in selection.recipes if recipe.candidate in selection.front]


def _recipe(results: StudyResults, record: TrialRecord) -> str:
    replicates = replicates_of(results, record)
    lines = [
        f"Trial {record.trial} of the study '{results.name}': {score_text(results, record)}, {record.images:,} images,",
        "one training with one seed. The score was used to choose it among others, so it flatters.",
        "Train it again with: gcsearch train best.yaml",
    ]
    if record.kind == "training":
        lines[1] = "one training with one seed, so there is no interval over seeds."
    elif record.kind == "finalist":
        lines[1] = "one of its recipe's trainings on fresh seeds, of which not all have a score."
    if replicates is not None:
        word = "" if record.kind == "arm" else "fresh "
        lines[1] = f"one of its recipe's trainings, whose mean is {mean_text(replicates, word)}: expect that."
    cpus = results.state.study.get("cpus_per_worker", 1)
    if cpus != 1:
        lines[-1] += f" --cpus-per-worker {cpus}"
    return "".join(f"# {line}\n" for line in lines) + dump_yaml(record.config)


def _config(experiment: Experiment, num_parameters: int) -> dict[str, Any]:
    """The configuration for programs that read no YAML: what `best.yaml` says, and what follows from it."""
    return {
        "gcsearch": version("gcsearch"),
        "weights": {"file": WEIGHTS, "kind": "averaged over training (EMA)"},
        "event_shape": list(experiment.data.event_shape),
        "num_parameters": num_parameters,
        "sigma_max": experiment.process.sigma_max,
        "sigma_min": experiment.process.sigma_min,
        "experiment": experiment.to_dict(),
    }


def _data(record: TrialRecord) -> dict[str, Any] | None:
    """Name, start of the sha256 and number of the real examples; None if no score names them."""
    for identity in record.results[-1].identities.values():
        name, digest, count = ScoreIdentity.parse(identity).data
        return {"name": name, "sha256_start": digest, "num_examples": count}
    return None


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
        "data": _data(record),
        "metrics": record.results[-1].metrics,
        "identities": record.results[-1].identities,
        "trained": {"from": record.started, "to": record.ended},
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        **study.get("provenance", {}),
    }
