"""What a study hands over: to people a recipe and a model card, to programs weights, frames and an MLflow model."""

from gcsearch.export.editing import Edited, edited, interpolated
from gcsearch.export.folder import export_trial
from gcsearch.export.frames import StudyFrames, open_frames
from gcsearch.export.model import RECIPE, WEIGHTS, LoadedModel, load_model, steps_sampler

__all__ = [
    "RECIPE",
    "WEIGHTS",
    "Edited",
    "LoadedModel",
    "StudyFrames",
    "edited",
    "export_trial",
    "interpolated",
    "load_model",
    "open_frames",
    "steps_sampler",
]
