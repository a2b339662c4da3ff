"""The flow `reproduce`: a registered model rebuilt from its lineage, and what came out otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, flow
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from components.run.failures import explain
from components.run.record import write_result
from components.run.reproduction import FETCH_STEP, Reproduction
from components.settings import Settings
from flows.options import Difference, ReproduceResult, StageProgress, Watch
from flows.stage_task import run_stage, run_step


def reproduce_flow(root: Callable[[], Path], watch: Watch, tell: Callable[[ReproduceResult], None]) -> Flow[..., Any]:
    """The flow over the checkout `root()`; `watch` is told its progress, `tell` its result."""

    @flow(name="reproduce", persist_result=False, description="Rebuild a model from its lineage and say what differs.")
    def reproduce(model: str, source: str | None = None) -> State[None]:
        """Rebuild a model.

        Args:
            model: A registered version, such as `models:/mmfs-vqa@champion`.
            source: A git revision to take the source from, instead of the run's own.
        """
        started = time.time()
        one = Reproduction.open(Settings(root=root()), model, source)
        try:
            one.note(str(flow_run.id))
            with get_client(sync_client=True) as client:
                client.update_flow_run(UUID(str(flow_run.id)), name=one.name)
            result = conduct(one, watch, started)
        except BaseException as error:
            one.close("failed" if isinstance(error, Exception) else "cancelled")
            write_result(one.files, time.time(), {"message": explain(error).line()})
            raise
        one.close("finished")
        write_result(one.files, time.time(), asdict(result))
        tell(result)
        return Completed(message="identical") if result.identical else Failed(name="Different", message=_first(result))

    return reproduce


def conduct(one: Reproduction, watch: Watch, started: float) -> ReproduceResult:
    """Compute every stage again and compare. Raises StageError."""
    steps = (FETCH_STEP, *(stage.name for stage in one.stages))
    for step in steps:
        watch(StageProgress(step, "Pending"))
    for step in steps:
        run_stage(step, partial(one.run_stage, step), watch)
    found = run_step("compare", one.compare, watch)
    differences = tuple(Difference(row.stage, row.what, row.original, row.reproduced) for row in found)
    if differences:
        create_table_artifact([asdict(row) for row in differences], key="differences", description=f"{one.model} {one.version}: {one.name}")
    return ReproduceResult(
        model=one.model,
        version=one.version,
        run_id=one.lineage.run_id,
        name=one.name,
        mlflow_run_id=one.mlflow_run_id,
        prefect_flow_run_id=one.record.prefect_flow_run_id or "",
        identical=not differences,
        stages_run=tuple(one.ran),
        differences=differences,
        seconds=time.time() - started,
        remarks=tuple(one.remarks),
    )


def _first(result: ReproduceResult) -> str:
    row = result.differences[0]
    return f"{row.stage}: {row.what} is {row.reproduced}, was {row.original} ({len(result.differences)} differences)"


reproduce = reproduce_flow(lambda: Settings().root, lambda news: None, lambda result: None)
