"""Register a task's trained model: one version per model digest, with its lineage and its evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from components.registry.gate import Evaluated
from components.registry.package import (
    DIGEST_TAG,
    MLFLOW_RUN_TAG,
    RUN_TAG,
    attach_evaluation,
    find_package,
    find_version,
    read_evaluated,
    versions,
)
from components.tracking.weights import WeightsRecord


@dataclass(frozen=True)
class Candidate:
    """A registered version that asks for promotion. `obstacle` says why it may not be promoted at all."""

    task: str
    model: str
    version: int
    run_id: str
    evaluated: Evaluated
    created: bool
    obstacle: str | None = None

    @property
    def digest(self) -> str:
        """Model digest of the version."""
        return self.evaluated.digest


@dataclass(frozen=True)
class Origin:
    """Where a candidate comes from: the mmfs run, its MLflow run and experiment, its lineage tags and why it may not be promoted."""

    run_id: str
    mlflow_run_id: str
    experiment_id: str
    lineage: Mapping[str, str]
    obstacle: str | None = None


def model_name(task: str) -> str:
    """Registered model of a task."""
    return f"mmfs-{task}"


def register(client: MlflowClient, task: str, origin: Origin, weights: Path, evaluation: Path) -> Candidate:
    """Register the model of `weights` (a weights.json) with the evidence in `evaluation`; a digest that has a version keeps it."""
    model = model_name(task)
    digest = WeightsRecord.read(weights).model_digest
    evaluated = read_evaluated(evaluation, digest)
    version, created = register_digest(client, model, digest, origin)
    attach_evaluation(client, version, origin.mlflow_run_id, task, evaluation, evaluated.manifest)
    obstacle = origin.obstacle if version.tags.get(RUN_TAG) in (None, origin.run_id) else version.tags.get("mmfs.obstacle")
    return Candidate(task, model, int(version.version), origin.run_id, evaluated, created=created, obstacle=obstacle)


def register_digest(client: MlflowClient, model: str, digest: str, origin: Origin) -> tuple[ModelVersion, bool]:
    """The version of published weights, and whether it was made now. Raises RegistryError when nobody published them."""
    known = versions(client, model, {DIGEST_TAG: digest})
    return (known[0], False) if known else (_create(client, model, digest, origin), True)


def _create(client: MlflowClient, model: str, digest: str, origin: Origin) -> ModelVersion:
    package = find_package(client, origin.experiment_id, digest)
    try:
        client.create_registered_model(model, description=f"Interleaved image-text model, task {model.removeprefix('mmfs-')}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {DIGEST_TAG: digest, RUN_TAG: origin.run_id, MLFLOW_RUN_TAG: origin.mlflow_run_id, **origin.lineage}
    if origin.obstacle:
        tags["mmfs.obstacle"] = origin.obstacle
    mlflow.set_tracking_uri(client.tracking_uri)  # where MLflow looks for the logged model, whatever the client's own address
    made = client.create_model_version(model, package.uri, run_id=package.source_run_id, tags=tags, model_id=package.model_id)
    first = versions(client, model, {DIGEST_TAG: digest})[0]
    if int(first.version) != int(made.version):  # another run registered the same digest meanwhile
        client.delete_model_version(model, made.version)
        return first
    client.set_logged_model_tags(package.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([{"name": model, "version": int(made.version)}])})
    return find_version(client, model, int(made.version))
