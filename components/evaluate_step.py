"""A committed step of a training scored while the training goes on, or after it stopped: the scores land at that step of its MLflow run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Metric as MlflowMetric
from mlflow.tracking import MlflowClient

from components.committed import Committed, export_committed
from components.data.places import shard_places
from components.data_versions import open_locked
from components.evaluate import SHEETS, answered, write_results
from components.evaluation.estimates import Estimate, Metric
from components.params import Params, Task, load
from components.registry.package import EVIDENCE_FILES
from components.run.events import EventWriter
from components.run.failures import FailureClass, StageError
from components.run.key import device_type
from components.run.paths import Paths
from components.run.record import recorded_file
from components.settings import Settings
from components.tracking.mlflow_run import connect, experiment_id
from components.tracking.spool import now_ms

PREFIX = "evaluation"
_ZERO_SHOT = "zero_shot_"


@dataclass(frozen=True)
class StepScores:
    """How a step did at a task. `place` is the artifact folder of the evidence in the MLflow run `mlflow_run_id`."""

    task: Task
    step: int
    digest: str
    manifest: str
    metrics: dict[str, Metric]
    mlflow_run_id: str
    place: str


def evaluate_step(settings: Settings, committed: Committed, tasks: Sequence[Task] = ()) -> list[StepScores]:
    """Score the step at these tasks; without any at the stage's own, or for `pretrain` at all tasks of the run.

    Metrics are `evaluation/<task>/<metric>` at the step in the stage's own MLflow run. Raises StageError.
    """
    client = connect(settings)
    run_id = stage_run(client, settings, committed)
    params = load(recorded_file(settings.home, committed.run.run_id, "params.yaml"))
    model, weights = export_committed(settings, committed)
    found = []
    for task in tasks or (params.tasks if committed.stage == "pretrain" else (_task(committed),)):
        with tempfile.TemporaryDirectory(dir=settings.home.folder, prefix=".evaluation-") as scratch:
            out = Path(scratch) / "out"
            manifest, metrics = _scored(settings, committed, params, task, model, Path(scratch), out)
            place = f"{PREFIX}/step-{committed.step:08d}/{task}"
            for name in EVIDENCE_FILES:
                client.log_artifact(run_id, str(out / name), place)
            client.log_artifacts(run_id, str(out / SHEETS), f"{place}/{SHEETS}")
        time_ms = now_ms()
        values = {name: one.value for name, one in metrics.items() if isinstance(one, Estimate)}
        client.log_batch(run_id, [MlflowMetric(f"{PREFIX}/{task}/{name}", one, time_ms, committed.step) for name, one in values.items()])
        found.append(StepScores(task, committed.step, weights.model_digest, manifest, metrics, run_id, place))
    return found


def stage_run(client: MlflowClient, settings: Settings, committed: Committed) -> str:
    """The MLflow run in which the stage is, or was, computed. Raises StageError where the store has none."""
    runs = client.search_runs(
        [experiment_id(client, settings)],
        filter_string=f"tags.`mmfs.stage_key` = '{committed.key}'",
        order_by=["attributes.start_time ASC"],
    )
    for run in runs:
        if run.data.tags.get("mmfs.cached") != "true":
            return str(run.info.run_id)
    message = f"MLflow has no run of {committed.address} of run {committed.run.run_id} yet"
    raise StageError(FailureClass.INFRASTRUCTURE, message, "its records may still wait to be sent; ask again in a moment")


def _scored(
    settings: Settings, committed: Committed, params: Params, task: Task, model: Path, scratch: Path, out: Path
) -> tuple[str, dict[str, Metric]]:
    """(manifest, metrics) of a task, and the evidence in `out`."""
    evidence, scored = answered(
        params,
        _checkout(settings, committed, scratch / "checkout"),
        shard_places(Paths(settings.root), settings),
        scratch / "answers",
        {"task": str(model), "pretrain": str(model)},
        task,
        device=device_type(),
        settings=settings,
        events=EventWriter(None),
    )
    scored.metrics = {name: one for name, one in scored.metrics.items() if not name.startswith(_ZERO_SHOT)}  # it would be the same model
    write_results(out, evidence, scored)
    return evidence.manifest.sha256, scored.metrics


def _checkout(settings: Settings, committed: Committed, folder: Path) -> Paths:
    """A folder with the run's index, by the hash in its lock, and its input."""
    paths = Paths(folder)
    lock = recorded_file(settings.home, committed.run.run_id, "dvc.lock").read_text(encoding="utf-8")
    paths.outputs.mkdir(parents=True)
    paths.index.symlink_to(open_locked(settings.root, lock, committed.run.run_id).folder.resolve())
    for root in (settings.home.worktrees / committed.run.run_id, settings.root):
        if Paths(root).input.is_dir():
            paths.input.parent.mkdir(exist_ok=True)
            paths.input.symlink_to(Paths(root).input.resolve())
            break
    return paths


def _task(committed: Committed) -> Task:
    return committed.stage  # type: ignore[return-value]  # every stage but `pretrain` is a task
