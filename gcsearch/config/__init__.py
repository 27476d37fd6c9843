"""Experiment files to components and back.

`load_experiment` reads an experiment file, `build` makes one component from a plain specification, `registry.spec` is
the way back. Errors name file, line, field, rule and value.
"""

from gcsearch.config.build import build, build_settings
from gcsearch.config.documents import Document, parse_assignment, parse_value, read_document
from gcsearch.config.experiment import Experiment
from gcsearch.config.reading import find_experiment, load_experiment
from gcsearch.config.sections import Evaluation, Training

__all__ = [
    "Document",
    "Evaluation",
    "Experiment",
    "Training",
    "build",
    "build_settings",
    "find_experiment",
    "load_experiment",
    "parse_assignment",
    "parse_value",
    "read_document",
]
