"""The code of a registered model: MLflow copies this file beside the weights and runs it when the model is loaded.

So nothing of ours is pickled. The environment that loads it needs gcsearch installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

import gcsearch


class Samples(PythonModel):
    """Draws samples of an exported model."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the export."""
        self.model = gcsearch.load(context.artifacts["export"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray[Any, Any]:
        """Samples, as `gcsearch.load(...).sample` draws them.

        Args:
            context: Unused; the model is loaded.
            model_input: One row of `num`, `steps`, `seed`; what it leaves out has its default.
            params: Unused.

        Returns:
            uint8 images (num, C, H, W), or float32 points (num, dimension).
        """
        del context, params
        rows = model_input.to_dict("records") or [{}]
        if len(rows) > 1:
            raise ValueError(f"the input must be one row of num, steps and seed, got {len(rows)} rows")
        asked = {str(key): int(value) for key, value in rows[0].items()}
        samples = self.model.sample(asked.get("num", 64), steps=asked.get("steps", 1), seed=asked.get("seed"))
        return samples.numpy()


set_model(Samples())
