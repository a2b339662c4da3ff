"""The report of a run: one HTML file that needs no network, made from what the run left behind."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from components.evaluation.estimates import METRICS_FILE, Estimate, Metric, read_metrics
from components.evaluation.html import environment, line_chart, png_uri
from components.evaluation.illustration import ILLUSTRATIONS_FILE, Illustration, read_illustrations
from components.metrics import METRICS
from components.params import TASKS
from components.run.events import read_events
from components.run.paths import Paths, RunFiles

StageState = Literal["Completed", "Cached", "Failed", "Cancelled", "Running", "Pending"]
LOSSES_FILE, VALIDATION_FILE = "losses.csv", "validation.csv"
_TIME = "time/"

LAPS = ("data", "forward", "backward", "optimizer", "log", "validation", "checkpoint")
METRIC_TITLES = {name: one.title for name, one in METRICS.items()}
TASK_TITLES = {
    "vqa": "Questions and captions",
    "grounding": "Grounding",
    "segmentation": "Segmentation to picture",
    "story": "Illustrated stories",
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(_Frozen):
    """The run under one tool's name, and the command or address that shows it there."""

    tool: str
    name: str
    show: str = ""


class StageRow(_Frozen):
    """A stage and where its seconds went. `seconds` is the lifetime of its process, `body_seconds` the part between its events
    `started` and `finished`; a Cached stage has no body."""

    name: str
    state: StageState
    seconds: float = Field(ge=0)
    body_seconds: float = Field(0, ge=0)
    message: str = ""

    @property
    def start_up_seconds(self) -> float:
        return max(0.0, self.seconds - self.body_seconds)


class Losses(_Frozen):
    """One loss of one training stage, as (step, value)."""

    stage: str
    name: str
    points: tuple[tuple[float, float], ...] = Field(min_length=1)


class Training(_Frozen):
    """How a training stage's time was used. `split` is seconds a step by lap; `goodput` and `mfu` are shares; what was not told is None."""

    stage: str
    split: dict[str, float] = Field(min_length=1)
    goodput: float | None = None
    mfu: float | None = None
    tokens_per_second: float | None = None


class TaskMetrics(_Frozen):
    """What one task's evaluation came to, and examples of it."""

    task: str
    metrics: dict[str, Metric]
    illustrations: tuple[Illustration, ...] = ()


class Decision(_Frozen):
    """What the gate decided about one task's model, and why."""

    task: str
    model: str
    version: int
    decision: str
    reasons: tuple[str, ...] = ()
    digest: str = ""
    metric: str = Field("", description="the gate's primary metric, shown large")


class ReportData(_Frozen):
    """Everything the page shows."""

    run_id: str
    state: str
    started: datetime
    wall_seconds: float = Field(ge=0)
    identities: tuple[Identity, ...] = ()
    stages: tuple[StageRow, ...] = ()
    losses: tuple[Losses, ...] = ()
    validation: tuple[Losses, ...] = ()
    trainings: tuple[Training, ...] = ()
    tasks: tuple[TaskMetrics, ...] = ()
    decisions: tuple[Decision, ...] = ()
    lineage: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    message: str = ""
    warning: str = Field("", description="what speaks against the run as a whole, such as source in no commit")

    @property
    def start_up_seconds(self) -> float:
        return sum(stage.start_up_seconds for stage in self.stages)

    @property
    def body_seconds(self) -> float:
        return sum(stage.body_seconds for stage in self.stages)

    @property
    def orchestration_seconds(self) -> float:
        """Wall time in which no stage's process lived."""
        return max(0.0, self.wall_seconds - sum(stage.seconds for stage in self.stages))


def render(data: ReportData) -> str:
    """The page as HTML. Every text is escaped; pictures and styles are inside."""
    pages = environment()
    pages.filters |= {"png_uri": png_uri, "duration": duration, "figure": figure, "flat": _flat}
    pages.globals |= {"line_chart": line_chart, "METRIC_TITLES": METRIC_TITLES, "TASK_TITLES": TASK_TITLES, "LAPS": LAPS}
    pages.tests["estimate"] = lambda metric: isinstance(metric, Estimate)
    return pages.get_template("report.html.j2").render(data=data)


def collect(
    *,
    run_id: str,
    state: str,
    started: datetime,
    wall_seconds: float,
    files: RunFiles,
    paths: Paths,
    stages: Sequence[StageRow],
    identities: Sequence[Identity] = (),
    decisions: Sequence[Decision] = (),
    lineage: Mapping[str, Any] | None = None,
    message: str = "",
    warning: str = "",
) -> ReportData:
    """Gather a run's page from its folder and the outs in `paths`; what is not there (a failed run) is left out.

    `stages` carry name, state and process lifetime; their bodies are read from the event files.
    Without `lineage` it is read from the run folder.
    """
    if lineage is None:
        lineage = _json(files.lineage)
    return ReportData(
        run_id=run_id,
        state=state,
        started=started.astimezone(UTC),
        wall_seconds=wall_seconds,
        identities=tuple(identities),
        stages=tuple(stage.model_copy(update={"body_seconds": body_seconds(files.events(stage.name), stage)}) for stage in stages),
        losses=tuple(_losses(paths)),
        validation=tuple(_validation(paths)),
        trainings=tuple(_trainings(files, stages)),
        tasks=tuple(_tasks(paths)),
        decisions=tuple(decisions),
        lineage=dict(lineage),
        data=_json(paths.index / METRICS_FILE),
        message=message,
        warning=warning,
    )


def body_seconds(events: Path, stage: StageRow) -> float:
    """Seconds between the last `started` of a stage and its end, at most its process lifetime; 0 where it never started."""
    times = {event.name: event.time_ms for event in read_events(events) if event.name in ("started", "finished", "failed")}
    if stage.state == "Cached" or "started" not in times:
        return 0.0
    ended = max(times.get("finished", 0), times.get("failed", 0))
    return min(stage.seconds, max(0.0, (ended - times["started"]) / 1000)) if ended else stage.seconds


def duration(seconds: float) -> str:
    """Seconds as people write them: `0.4 s`, `12 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def figure(value: float) -> str:
    """A metric's number with the digits that its sample size can carry."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _losses(paths: Paths) -> list[Losses]:
    found = []
    for stage, rows in _tables(paths, LOSSES_FILE):
        for name in ("text_loss", "image_loss"):
            points = tuple((float(row["step"]), float(row[name])) for row in rows if row.get(name) not in (None, "", "nan"))
            if any(value for _, value in points):
                found.append(Losses(stage=stage, name=name, points=points))
    return found


def _validation(paths: Paths) -> list[Losses]:
    """Held-out curves, by source and by number of images."""
    found = []
    for stage, rows in _tables(paths, VALIDATION_FILE):
        for name in dict.fromkeys(row["name"] for row in rows):
            points = tuple((float(row["step"]), float(row["value"])) for row in rows if row["name"] == name and row["value"] != "nan")
            if points:
                found.append(Losses(stage=stage, name=name, points=points))
    return found


def _tables(paths: Paths, name: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The rows of a CSV file of each training stage that has it."""
    for stage, folder in [("pretrain", paths.pretrain), *((f"finetune@{task}", paths.finetune(task)) for task in TASKS)]:
        if (folder / name).is_file():
            with (folder / name).open(encoding="utf-8", newline="") as lines:
                yield stage, list(csv.DictReader(lines))


def _trainings(files: RunFiles, stages: Sequence[StageRow]) -> Iterator[Training]:
    """What the stages last told of their time; nothing of one that was cached."""
    for stage in stages:
        latest: dict[str, float] = {}
        for event in read_events(files.events(stage.name)):
            latest |= event.values["metrics"] if event.name == "progress" else {}
        split = {name.removeprefix(_TIME): value for name, value in latest.items() if name.startswith(_TIME)}
        whole = split.pop("step", None)
        if whole is not None:
            told = {name: latest.get(name) for name in ("goodput", "mfu", "tokens_per_second")}
            yield Training(stage=stage.name, split=split, **told)


def _tasks(paths: Paths) -> list[TaskMetrics]:
    found = []
    for task in TASKS:
        folder = paths.evaluation(task)
        if (folder / METRICS_FILE).is_file():
            examples = folder / ILLUSTRATIONS_FILE
            illustrations = tuple(read_illustrations(examples)) if examples.is_file() else ()
            found.append(TaskMetrics(task=task, metrics=read_metrics(folder / METRICS_FILE), illustrations=illustrations))
    return found


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted key, value) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
    return rows
