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
    """What a stage tells MLflow."""

    def log_metrics(self, points: object) -> None: ...


def run(root: Path, values: DataParams, workers: int | None = 0, **settings: Any) -> PrepareResult:
    """The stage's body in `root`, as its main would call it."""
    params: Params = load(SOURCE / "params.yaml").model_copy(update={"data": values})
    work = WorkFolder(root / "work", root)
    work.body.mkdir(parents=True, exist_ok=True)
    own = Settings(root=root, prepare_workers=workers, **settings)
    context = SimpleNamespace(work=work, events=EventWriter(root / "events.jsonl"), tracking=Tracking(), settings=own)
    return prepare.run(params, Paths(root), cast(StageContext, context))


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }
