"""What is registered: the published weights of a digest, and the evaluations that speak for them."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from components.evaluation.answer_log import SAMPLES_FILE
from components.evaluation.estimates import METRICS_FILE, Estimate, read_metrics
from components.evaluation.manifest import MANIFEST_FILE
from components.registry.gate import Evaluated
from components.run.failures import FailureClass, StageError
from components.tracking.logged_model import find
from components.tracking.weights import DIGEST_TAG

RUN_TAG = "mmfs.run_id"
MLFLOW_RUN_TAG = "mmfs.mlflow_run_id"
EVALUATION_TAG = "mmfs.evaluation."
EVIDENCE_FILES = (MANIFEST_FILE, METRICS_FILE, SAMPLES_FILE)
TAGGED_MANIFEST_CHARACTERS = 16


class RegistryError(StageError):
    """A model or version that is asked for is not there, or not for this; the message names it and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureClass.BAD_CONFIG, message)


class UnknownModel(RegistryError):
    """No model, version or alias of that name is registered."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}; `mmfs models list` lists what there is, `mmfs run` trains some")


@dataclass(frozen=True)
class Package:
    """The logged model that holds a digest's bytes, and the run that published them."""

    model_id: str
    digest: str
    source_run_id: str | None

    @property
    def uri(self) -> str:
        """Address that MLflow loads, serves and registers."""
        return f"models:/{self.model_id}"


def find_package(client: MlflowClient, experiment: str, digest: str) -> Package:
    """The logged model of a digest. Raises RegistryError when nobody published it."""
    model = find(client, experiment, digest)
    if model is None:
        raise RegistryError(f"no published weights have the digest {digest[:12]}; run `mmfs run` to train and publish them")
    return Package(model.model_id, digest, model.source_run_id)


def read_evaluated(folder: Path, digest: str) -> Evaluated:
    """An evaluation's evidence from its folder: corpus values and, per metric, each document's mean score."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    values = {name: metric.value for name, metric in read_metrics(folder / METRICS_FILE).items() if isinstance(metric, Estimate)}
    totals: dict[str, dict[str, list[float]]] = {}
    with (folder / SAMPLES_FILE).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            for metric, score in row["scores"].items():
                totals.setdefault(metric, {}).setdefault(row["document"], []).append(float(score))
    scores = {metric: {document: sum(rows) / len(rows) for document, rows in documents.items()} for metric, documents in totals.items()}
    return Evaluated(digest, manifest["sha256"], values, scores)


def attach_evaluation(client: MlflowClient, version: ModelVersion, run_id: str, task: str, folder: Path, manifest: str) -> None:
    """Keep the evidence with the run and name its place on the version, once per manifest."""
    tag = evaluation_tag(manifest)
    if tag in version.tags:
        return
    place = f"evaluation/{task}"
    for name in EVIDENCE_FILES:
        client.log_artifact(run_id, str(folder / name), place)
    client.set_model_version_tag(version.name, version.version, tag, f"runs:/{run_id}/{place}")


def fetch_evaluated(client: MlflowClient, version: ModelVersion, manifest: str) -> Evaluated:
    """The version's evaluation on `manifest`, or on another one where it has none on that; without any, one that compares with nothing."""
    digest = version.tags.get(DIGEST_TAG, "")
    known = {tag: place for tag, place in version.tags.items() if tag.startswith(EVALUATION_TAG)}
    place = known.get(evaluation_tag(manifest)) or next(iter(known.values()), None)
    if place is None:
        return Evaluated(digest, "", {}, {})
    run_id, _, path = place.removeprefix("runs:/").partition("/")
    with tempfile.TemporaryDirectory() as folder:
        return read_evaluated(Path(client.download_artifacts(run_id, path, folder)), digest)


def evaluation_tag(manifest: str) -> str:
    """Tag of a model version under which the evidence on a manifest is named."""
    return EVALUATION_TAG + manifest[:TAGGED_MANIFEST_CHARACTERS]


def find_version(client: MlflowClient, model: str, version: int) -> ModelVersion:
    """A registered version. Raises UnknownModel."""
    for one in versions(client, model):
        if int(one.version) == version:
            return one
    raise UnknownModel(f"{model} has no version {version}")


def resolve_version(client: MlflowClient, address: str) -> ModelVersion:
    """The version at `models:/NAME@ALIAS` or `models:/NAME/VERSION`. Raises RegistryError; UnknownModel where there is none."""
    found = re.fullmatch(r"(?:models:/)?([^/@]+)(?:@([\w-]+)|/(\d+))", address)
    if found is None:
        raise RegistryError(f"{address!r} names no model version; write it as models:/mmfs-vqa@champion or models:/mmfs-vqa/3")
    name, alias, number = found.groups()
    if number:
        return find_version(client, name, int(number))
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if not is_absent(error):
            raise
        raise UnknownModel(f"{name} has no version with the alias {alias!r}") from None


def is_absent(error: MlflowException) -> bool:
    """Whether MLflow says that what was asked for does not exist; it calls an unknown alias an invalid value."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")


def versions(client: MlflowClient, model: str, tags: Mapping[str, str] | None = None) -> list[ModelVersion]:
    """Versions of a model with these tags, oldest first; none for an unknown model."""
    wanted = "".join(f" and tags.`{key}` = '{value}'" for key, value in (tags or {}).items())
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{model}'{wanted}", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda one: int(one.version))
