"""Training of one experiment: no Ray, no MLflow, no YAML."""

from gcsearch.training.checkpoint import Checkpoint, load_checkpoint
from gcsearch.training.trainer import Outcome, Result, Trainer

__all__ = ["Checkpoint", "Outcome", "Result", "Trainer", "load_checkpoint"]
