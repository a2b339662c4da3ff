"""The model as MLflow loads and serves it, kept as code: `mlflow models serve -m models:/mmfs-story@champion --env-manager local`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from components.serving.items import Options, Prompt, dump


class InterleavedModel(PythonModel):
    """Continues prompts of texts and pictures; columns and options are those of components.serving.signature."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the verified weights."""
        from components.serving.generator import Generator  # torch only where a model is really loaded

        self._generator = Generator.load(Path(context.artifacts["weights"]))

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row of `items` a row of the request. Raises PromptError for a row that cannot be used."""
        prompts = [Prompt.of_row({str(column): value for column, value in row.items()}) for row in model_input.to_dict("records")]
        answers = self._generator.answer(prompts, Options(**(params or {})))
        return pd.DataFrame({"items": [dump(answer) for answer in answers]})


mlflow.models.set_model(InterleavedModel())
