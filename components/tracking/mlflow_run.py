"""MLflow runs that tell the truth: opened once, resumed under their own id, closed FINISHED, FAILED or KILLED."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from components.run.failures import FailureClass, StageError
from components.settings import Settings, without_secrets
from components.tracking.spool import now_ms

Status = Literal["FINISHED", "FAILED", "KILLED"]


def connect(settings: Settings) -> MlflowClient:
    """A client of the configured store. Raises StageError (infrastructure) when it does not answer."""
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # that a first run makes tables is no news for its user
    client = MlflowClient(tracking_uri=settings.tracking_uri)
    try:
        experiment_id(client, settings)
    except MlflowException as error:
        raise _unreachable(settings, error) from None
    return client


def experiment_id(client: MlflowClient, settings: Settings) -> str:
    """The experiment's id, made with artifacts beside the store where it is new."""
    found = client.get_experiment_by_name(settings.experiment)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(settings.experiment, artifact_location=settings.artifact_location))
    except MlflowException:
        found = client.get_experiment_by_name(settings.experiment)
        if found is None:
            raise
        return str(found.experiment_id)


def open_run(client: MlflowClient, settings: Settings, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
    """Create a RUNNING run; its id."""
    all_tags = dict(tags) | {MLFLOW_RUN_NAME: name}
    if parent:
        all_tags[MLFLOW_PARENT_RUN_ID] = parent
    run: Run = client.create_run(experiment_id(client, settings), tags=all_tags, run_name=name)
    return str(run.info.run_id)


def resume_run(client: MlflowClient, run_id: str) -> bool:
    """Set a run RUNNING again and count the restart; False when the store does not know it."""
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return False
    restarts = int(run.data.tags.get("mmfs.restarts", "0")) + 1
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, "mmfs.restarts", str(restarts))
    return True


def close_run(client: MlflowClient, run_id: str, status: Status) -> None:
    """End a run, and with it every child that still claims to be running."""
    for child in children(client, run_id):
        if child.info.status == "RUNNING":
            client.set_terminated(child.info.run_id, "KILLED" if status == "FINISHED" else status)
    client.set_terminated(run_id, status)


def children(client: MlflowClient, run_id: str) -> list[Run]:
    """The stage runs below a parent, oldest first."""
    parent = client.get_run(run_id)
    return list(
        client.search_runs(
            [parent.info.experiment_id], filter_string=f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'", order_by=["attributes.start_time ASC"]
        )
    )


def record_cached(client: MlflowClient, settings: Settings, parent: str, stage: str, key: str, metrics: Mapping[str, float]) -> str:
    """A Cached stage's child run: FINISHED, with its metrics, tagged with the run that computed it where that is known."""
    source = client.search_runs(
        [experiment_id(client, settings)],
        filter_string=f"tags.`mmfs.stage_key` = '{key}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    tags = {"mmfs.stage": stage, "mmfs.stage_key": key, "mmfs.cached": "true"}
    tags["mmfs.cached_from"] = source[0].data.tags.get("mmfs.cached_from", source[0].info.run_id) if source else "dvc"
    run_id = open_run(client, settings, stage, tags, parent)
    time_ms = now_ms()
    client.log_batch(run_id, metrics=[Metric(name, value, time_ms, 0) for name, value in metrics.items()])
    client.set_terminated(run_id, "FINISHED")
    return run_id


def tag_run(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set several tags at once."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _unreachable(settings: Settings, error: MlflowException) -> StageError:
    message = without_secrets(f"MLflow at {settings.tracking_uri} does not answer: {str(error).splitlines()[0]}")
    return StageError(FailureClass.INFRASTRUCTURE, message, "start it with `mmfs up`, or unset MLFLOW_TRACKING_URI")
