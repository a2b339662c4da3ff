"""The body of stage `prepare`, called as its main would call it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tiny_line import SOURCE

from components import prepare
from components.params import DataParams, Params, load
from components.results import PrepareResult
from components.run.events import EventWriter
from components.run.main import StageContext
from components.run.paths import Paths
from components.run.work import WorkFolder
from components.settings import Settings


class Tracking:
    """Keeps what a stage tells MLflow."""

    def __init__(self) -> None:
        self.artifacts: dict[str, str] = {}
        self.tags: dict[str, str] = {}

    def log_metrics(self, points: object) -> None: ...

    def log_artifact(self, path: Path) -> None:
        self.artifacts[path.name] = path.read_text(encoding="utf-8")

    def set_tags(self, tags: dict[str, str]) -> None:
        self.tags |= tags


def run(root: Path, values: DataParams, workers: int | None = 0, tracking: Tracking | None = None, **settings: Any) -> PrepareResult:
    """The stage's body in `root`, as its main would call it."""
    params: Params = load(SOURCE / "params.yaml").model_copy(update={"data": values})
    work = WorkFolder(root / "work", root)
    work.body.mkdir(parents=True, exist_ok=True)
    own = Settings(root=root, prepare_workers=workers, **settings)
    context = SimpleNamespace(work=work, events=EventWriter(root / "events.jsonl"), tracking=tracking or Tracking(), settings=own)
    return prepare.run(params, Paths(root), cast(StageContext, context))


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }
