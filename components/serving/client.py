"""Ask a registered model, and keep what it answers as text, JSON, a picture or a page."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from components.evaluation.html import environment, png_uri
from components.evaluation.illustration import Cell, Illustration, Row, cell, sheet
from components.serving.items import Item, Options, Prompt, dump, load
from components.settings import Settings


@dataclass(frozen=True)
class Answer:
    """What a model made of a prompt. `run_id` is the run that trained it: its name in Prefect, MLflow and DVC."""

    model_uri: str
    digest: str
    run_id: str
    prompt: Prompt
    items: tuple[Item, ...]

    def illustration(self) -> Illustration:
        """Prompt and answer, one above the other."""
        rows = [Row(label="prompt", cells=_cells(self.prompt.items))]
        if self.items:
            rows.append(Row(label="answer", cells=_cells(self.items)))
        return Illustration(title=self.model_uri, rows=tuple(rows), note=f"run {self.run_id}")

    def page(self) -> bytes:
        """A self-contained HTML page."""
        pages = environment()
        pages.filters |= {"png_uri": png_uri}
        subtitle = f"run {self.run_id}, weights {self.digest[:12]}"
        values = {"title": self.model_uri, "subtitle": subtitle, "illustrations": [self.illustration()]}
        return pages.get_template("page.html.j2").render(**values).encode()

    def sheet(self) -> bytes:
        """One PNG."""
        return sheet(self.illustration())

    def as_text(self) -> str:
        """The answer for a terminal."""
        return " ".join(item if isinstance(item, str) else "[picture]" for item in self.items) or "(the model stopped at once)"

    def as_json(self) -> dict[str, Any]:
        """The answer for a script; pictures are base64 PNGs."""
        return {"model": self.model_uri, "digest": self.digest, "run": self.run_id, "items": json.loads(dump(self.items))}


def ask(settings: Settings, model_uri: str, prompt: Prompt, options: Options) -> Answer:
    """Load a model as any MLflow client would and let it continue a prompt. Raises UnknownModel."""
    import mlflow
    import pandas as pd

    from components.registry.package import UnknownModel, is_absent

    mlflow.set_tracking_uri(settings.tracking_uri)
    try:
        model = mlflow.pyfunc.load_model(model_uri)
    except mlflow.exceptions.MlflowException as error:
        if not is_absent(error):
            raise
        raise UnknownModel(f"{model_uri}: {error.message}") from None
    answered = model.predict(pd.DataFrame([prompt.row()]), params=asdict(options))
    tags = mlflow.get_logged_model(model.model_id).tags if model.model_id else {}
    run_id = mlflow.get_run(model.metadata.run_id).data.tags.get("mmfs.run_id", model.metadata.run_id)
    return Answer(model_uri, tags.get("mmfs.model_digest", ""), run_id, prompt, load(answered["items"].iloc[0]))


def _cells(items: tuple[Item, ...]) -> tuple[Cell, ...]:
    return tuple(cell(item) if isinstance(item, str) else cell("", item) for item in items)
