"""From an export to a version in MLflow's model registry."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Final

from gcsearch.analysis.results import StudyResults
from gcsearch.config import Experiment
from gcsearch.export.model import WEIGHTS
from gcsearch.export.wording import meaning_text, score_text
from gcsearch.ledger import TrialRecord
from gcsearch.tracking.names import varied_params
from gcsearch.tracking.registering import ModelName, Registration, register

CODE: Final = Path(__file__).with_name("mlflow_model.py")


def register_export(results: StudyResults, record: TrialRecord, export: Path, model: ModelName, uri: str) -> int:
    """Register the export of a trial; the number of its version.

    Args:
        results: The study.
        record: The trial.
        export: Folder of its export.
        model: Name and alias in the registry.
        uri: Tracking URI.

    Raises:
        TrackingError: The store cannot be used.
    """
    study = results.state.study
    experiment = Experiment.from_dict(record.config, source=f"trial {record.trial}")
    registration = Registration(
        export=export,
        code=CODE,
        weights=WEIGHTS,
        study=results.name,
        study_id=str(study.get("study_id", results.name)),
        trial=record.trial,
        directory=results.directory,
        event_shape=experiment.data.event_shape,
        requirements=[f"gcsearch=={version('gcsearch')}"],
        params=varied_params(record.params, study.get("keys", ())),
        description=(
            f"Trial {record.trial} of the study '{results.name}': {score_text(results, record)}. "
            f"{meaning_text(results, record)}"
        ),
    )
    return register(uri, model, registration)
