"""Where a study can be watched and compared: views of its ledger that others draw. The only importer of MLflow.

A tracker is told of every event of a study. `Tracker` does nothing; `MLflowTracker` writes into an MLflow store in the
background. Importing this package does not import MLflow, which takes seconds.
"""

from gcsearch.tracking.base import Tracker
from gcsearch.tracking.mlflow import MLflowTracker
from gcsearch.tracking.ui import deep_links, serve, ui_command

__all__ = ["MLflowTracker", "Tracker", "deep_links", "serve", "ui_command"]
