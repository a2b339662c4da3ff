"""A checkout with a prepared smoke corpus, in which training stages are called as their main would call them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from components import prepare
from components.data.places import ShardPlaces
from components.data.sources.digits import export_digits
from components.params import Params, merge, parse, read_mapping
from components.run.events import EventWriter
from components.run.main import StageContext
from components.run.paths import Paths
from components.run.work import WorkFolder
from components.settings import Settings
from components.tracking.spool import Point

ROOT = Path(__file__).resolve().parents[2]


def smoke_values() -> dict[str, Any]:
    """The parameters of the smallest preset."""
    values: dict[str, Any] = merge(read_mapping(ROOT / "params.yaml"), read_mapping(ROOT / "params" / "smoke.yaml"))
    return values


class Tracking:
    """Keeps what a stage tells MLflow."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.tags: dict[str, object] = {}
        self.models: list[dict[str, Any]] = []
        self.artifacts: list[Path] = []
        self.events: list[Point] = []

    def log_metrics(self, points: list[Point]) -> None:
        self.points += points

    def log_event(self, point: Point) -> None:
        self.events.append(point)

    def set_tags(self, tags: dict[str, object]) -> None:
        self.tags |= tags

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self.artifacts.append(path)

    def publish_model(self, folder: Path, weights: dict[str, Any]) -> None:
        self.models.append(weights)


class Line:
    """A checkout with a prepared smoke corpus, in which training stages are called as their main would."""

    def __init__(self, root: Path, params: Params | None = None) -> None:
        self.root, self.paths = root, Paths(root)
        self.settings = Settings(root=root)
        self.params: Params = params or parse(smoke_values())
        self.places = ShardPlaces(folder=self.paths.shards)
        export_digits(self.paths.input / "digits")
        prepare.run(self.params, self.paths, self.context("prepare")[0])

    def context(self, name: str) -> tuple[StageContext, Tracking]:
        work = WorkFolder(self.root / "work" / name, self.root)
        work.body.mkdir(parents=True, exist_ok=True)
        tracking, events = Tracking(), EventWriter(self.root / "events" / f"{name}.jsonl")
        context = SimpleNamespace(name=name, work=work, events=events, tracking=tracking, settings=self.settings, device="cpu")
        return cast(StageContext, context), tracking
