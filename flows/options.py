"""What a flow is asked and what it answers: plain records, so that the command imports no orchestrator to build them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["Pending", "Running", "Completed", "Cached", "Failed", "Cancelled", "Changed"]
RunStatus = Literal["Completed", "Failed", "Cancelled"]
Decision = Literal["promoted", "rejected", "unchanged", "not promotable", "not compared"]


@dataclass(frozen=True)
class RunOptions:
    """One training run, as asked for.

    `root` is the main checkout. `preset` names an overlay params/PRESET.yaml; `overrides` are `section.key=value`, applied after it.
    `data` is the user's folder of documents.jsonl and images. `fresh` starts anew even where an equal run is unfinished.
    """

    root: Path
    preset: str | None = None
    overrides: tuple[str, ...] = ()
    data: Path | None = None
    promote: bool = True
    fresh: bool = False


@dataclass(frozen=True)
class StageProgress:
    """How far a stage of a running flow is; `metrics` are the latest values it told."""

    stage: str
    state: State
    done: float = 0
    total: float = 0
    unit: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    message: str = ""


Watch = Callable[[StageProgress], None]


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended; `seconds` is the lifetime of its process. `failure` is a class of components/run/failures.py."""

    stage: str
    state: State
    seconds: float
    failure: str | None = None
    message: str = ""
    fix: str = ""


@dataclass(frozen=True)
class ModelOutcome:
    """What became of a task's model: its registered version and the gate's decision, with reasons in words."""

    task: str
    name: str
    version: int
    digest: str
    decision: Decision
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class RunResult:
    """A finished run. Prefect flow run, MLflow run and DVC experiment all bear the name `run_id`.

    `seconds` is the wall time of the command: lifetimes of the stages' processes, and orchestration. `opening_seconds` is the part of the
    orchestration before the first task. The report splits the lifetimes further, into start-up and body (docs/report.md).
    """

    run_id: str
    status: RunStatus
    mlflow_run_id: str
    prefect_flow_run_id: str
    experiment: str | None
    stages: tuple[StageOutcome, ...]
    models: tuple[ModelOutcome, ...]
    report: Path | None
    seconds: float
    opening_seconds: float
    continued: bool = False
    message: str = ""
    fix: str = ""

    @property
    def process_seconds(self) -> float:
        """Sum of the stages' process lifetimes."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def orchestration_seconds(self) -> float:
        """Wall time in which no stage's process lived."""
        return self.seconds - self.process_seconds

    def as_dict(self) -> dict[str, Any]:
        """JSON values, the derived times included."""
        times = {"process_seconds": self.process_seconds, "orchestration_seconds": self.orchestration_seconds}
        return asdict(self) | times | {"report": str(self.report) if self.report else None}


@dataclass(frozen=True)
class Difference:
    """One thing a reproduction found different: a stage, and within it a file or a metric."""

    stage: str
    what: str
    original: str
    reproduced: str


@dataclass(frozen=True)
class ReproduceResult:
    """`name` is the reproduction's own in Prefect and MLflow, `run_id` the run that it rebuilt.

    `identical` is true when every out of every stage is equal, weights and metrics among them; all stages really ran. `remarks` are what
    this machine has otherwise than the run had.
    """

    model: str
    version: int
    run_id: str
    name: str
    mlflow_run_id: str
    prefect_flow_run_id: str
    identical: bool
    stages_run: tuple[str, ...]
    differences: tuple[Difference, ...]
    seconds: float
    remarks: tuple[str, ...] = ()
