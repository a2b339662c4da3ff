"""The flow `train`: the whole line, each step a task. What the steps do is in components/run/line.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Failed

from components.params import Task
from components.promote import Outcome
from components.run.failures import StageError, explain
from components.run.line import ARCHIVE_STEP, VERSION_STEP, TrainingRun
from components.run.parameters import resolve
from components.run.record import write_result
from components.run.stage import StageOutcome as Ended
from components.run.workspace import State as Closing
from components.settings import Settings
from components.start_pins import with_pins
from flows.options import ModelOutcome, RunOptions, RunResult, RunStatus, StageOutcome, StageProgress, Watch
from flows.shown import show_identities
from flows.stage_task import run_stage, run_step

Opener = Callable[[RunOptions], TrainingRun]
_STATES: dict[RunStatus, Closing] = {"Completed": "finished", "Failed": "failed", "Cancelled": "cancelled"}


def open_training(options: RunOptions, opened: float | None = None) -> TrainingRun:
    """Check what is asked, then take up or begin the run. Raises ParamsError or StageError before any work is done."""
    opened = time.time() if opened is None else opened
    settings = Settings(root=options.root)
    values = with_pins(resolve(options.root, options.preset, options.overrides, options.data), settings)
    return TrainingRun.open(settings, values, opened, options.fresh)


def train_flow(root: Callable[[], Path], opener: Opener, watch: Watch, tell: Callable[[RunResult], None]) -> Flow[..., Any]:
    """The flow over the checkout `root()`. `opener` gives the open run, `watch` is told its progress, `tell` its result."""

    @flow(name="train", persist_result=False, description="Prepare, train, evaluate, register, promote and report.")
    def train(
        preset: str | None = None, overrides: list[str] | None = None, data: str | None = None, promote: bool = True, fresh: bool = False
    ) -> State[None]:
        """Run the whole line.

        Args:
            preset: Name of an overlay in params/, such as `small`.
            overrides: Hyper-parameters as `section.key=value`.
            data: Folder of your own documents.jsonl and images, on the worker's machine.
            promote: Let the gate promote what is better than the champion.
            fresh: Start a new run even where an equal one is unfinished.
        """
        options = RunOptions(root(), preset, tuple(overrides or ()), Path(data) if data else None, promote, fresh)
        result = conduct(opener(options), options, watch, tell)
        if result.status == "Completed":
            return Completed(message=result.message)
        return Failed(name=next((one.failure for one in result.stages if one.failure), "Failed"), message=result.message)

    return train


def conduct(run: TrainingRun, options: RunOptions, watch: Watch, tell: Callable[[RunResult], None]) -> RunResult:
    """Take an open run through its steps, inside of a flow run, and end it whatever happens; its result is always told."""
    models: dict[Task, Outcome] = {}
    report: Path | None = None
    opening = 0.0

    def end(status: RunStatus, problem: StageError | None = None) -> RunResult:
        result = result_of(run, status, opening, models, report, problem)
        run.close(_STATES[status])
        write_result(run.workspace.files, time.time(), result.as_dict())
        tell(result)
        return result

    try:
        _name_flow_run(run)
        opening = time.time() - run.opened
        if run.warning:
            get_run_logger().warning(run.warning)
            watch(StageProgress("source", "Changed", message=run.warning))
        steps = (VERSION_STEP, *run.stages, ARCHIVE_STEP)
        for step in steps:
            watch(StageProgress(step, "Pending"))
        for step in steps:
            run_stage(step, partial(run.run_stage, step), watch)
        lineage = run_step("lineage", run.make_lineage, watch)
        for task in run.params.tasks:
            candidate = run_step(f"register {task}", partial(run.register, task, lineage), watch)
            models[task] = run_step(f"promote {task}", partial(run.promote, candidate, options.promote), watch)
        report = run_step("report", partial(run.write_report, "Completed", models), watch)
    except Exception as error:
        problem = explain(error)
        with suppress(Exception):  # the page of a failed run is a courtesy: its own trouble must not hide what failed
            report = run.write_report("Failed", models, problem.line())
        return end("Failed", problem)
    except BaseException:
        end("Cancelled")
        raise
    return end("Completed")


def result_of(
    run: TrainingRun, status: RunStatus, opening: float, models: Mapping[Task, Outcome], report: Path | None, problem: StageError | None
) -> RunResult:
    """What a run came to so far."""
    record = run.workspace.record
    return RunResult(
        run_id=run.run_id,
        status=status,
        mlflow_run_id=run.mlflow_run_id,
        prefect_flow_run_id=record.prefect_flow_run_id or "",
        experiment=record.experiment,
        stages=tuple(_stage(one) for one in run.ended.values()),
        models=tuple(ModelOutcome(task, one.model, one.version, one.digest, one.decision, one.reasons) for task, one in models.items()),
        report=report,
        seconds=time.time() - run.opened,
        opening_seconds=opening,
        continued=run.workspace.resumed,
        message=problem.message if problem else "; ".join(f"{one.model} {one.version} {one.decision}" for one in models.values()),
        fix=problem.fix if problem else "",
    )


def _stage(one: Ended) -> StageOutcome:
    failure = one.failure
    if failure is not None:
        return StageOutcome(one.name, one.status, one.seconds, failure.failure, failure.message, failure.fix)
    return StageOutcome(one.name, one.status, one.seconds, message=str((one.result or {}).get("summary", "")))


def _name_flow_run(run: TrainingRun) -> None:
    """Give the flow run the run's name, and tell Prefect that an earlier one of it was killed."""
    now, before = str(flow_run.id), run.workspace.record.prefect_flow_run_id
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(now), name=run.run_id)
        if before and before != now:
            with suppress(ObjectNotFound):
                client.set_flow_run_state(UUID(before), Crashed(message=f"its process was killed; flow run {now} goes on"), force=True)
    run.workspace.note(prefect_flow_run_id=now)
    names = {one.tool: one.name for one in run.identities()}
    show_identities(run.run_id, names, {"MLflow run": address} if (address := run.mlflow_address) else {})


train = train_flow(lambda: Settings().root, open_training, lambda news: None, lambda result: None)
