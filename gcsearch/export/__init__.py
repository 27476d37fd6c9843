"""What a study hands over: to people a recipe and a model card, to programs weights, frames and an MLflow model."""

from gcsearch.export.folder import export_trial
from gcsearch.export.frames import StudyFrames, open_frames
from gcsearch.export.model import RECIPE, WEIGHTS, LoadedModel, load_model, steps_sampler

__all__ = [
    "RECIPE",
    "WEIGHTS",
    "LoadedModel",
    "StudyFrames",
    "export_trial",
    "load_model",
    "open_frames",
    "steps_sampler",
]
