"""Which runs, steps and model versions saw a document; and its takedown, which keeps it out of the next data version and flags them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from components.architecture import architecture
from components.data.cursor import Cursor
from components.data.index import Index
from components.data.sightings import Sighting, sightings
from components.data.takedowns import Takedown, add, taken_down
from components.data_versions import open_locked
from components.params import Params, load
from components.registry.package import RUN_TAG
from components.run.failures import FailureClass, StageError
from components.run.lineage import LineageRecord
from components.run.paths import Paths
from components.settings import Settings
from components.tracking.mlflow_run import connect, experiment_id
from components.training.course import COURSE_TAG

TAKEDOWN_TAG = "mmfs.takedown"
LINEAGE_TAG = "mmfs.lineage"
_PAGE = 200
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Seen:
    """A training stage of a run that saw the document: in how many rows, from which step to which, in how many epochs of its source."""

    run_id: str
    mlflow_run_id: str
    stage: str
    times: int
    first_step: int
    last_step: int
    epochs: int


@dataclass(frozen=True)
class Trace:
    """What saw a document. `untraced` are runs of which too little is left to tell, with the reason."""

    document: str
    seen: tuple[Seen, ...]
    models: tuple[str, ...]
    untraced: tuple[tuple[str, str], ...]


def trace(settings: Settings, document: str, tell: Tell = lambda text: None) -> Trace:
    """Ask every run of the MLflow experiment that has a lineage. Raises StageError where MLflow cannot be asked."""
    client = connect(settings)
    seen: list[Seen] = []
    untraced: list[tuple[str, str]] = []
    for run_id, mlflow_run_id in _runs(client, settings):
        tell(f"Looking through run {run_id}")
        try:
            seen += _seen(client, settings, run_id, mlflow_run_id, document)
        except (StageError, MlflowException, ValueError, OSError) as error:
            untraced.append((run_id, str(error).splitlines()[0]))
    return Trace(document, tuple(seen), tuple(_models(client, seen)), tuple(untraced))


def take_down(settings: Settings, document: str, reason: str, by: str, tell: Tell = lambda text: None) -> tuple[Takedown, Trace]:
    """Record that a document must not be in any further data version, and flag the model versions that saw it.

    Raises StageError (bad_config) for one that is taken down already.
    """
    path = Paths(settings.root).takedowns
    if document in taken_down(path):
        raise StageError(FailureClass.BAD_CONFIG, f"{document} is taken down already", f"see {path.relative_to(settings.root)}")
    found = trace(settings, document, tell)
    takedown = Takedown(document=document, reason=reason, by=by, time=datetime.now(UTC).isoformat(timespec="seconds"), models=found.models)
    add(path, [takedown])
    client = connect(settings)
    for version in _versions(client, found.models):
        flagged = {*json.loads(version.tags.get(TAKEDOWN_TAG, "[]")), document}
        client.set_model_version_tag(version.name, version.version, TAKEDOWN_TAG, json.dumps(sorted(flagged)))
    for run in {one.mlflow_run_id for one in found.seen}:
        flagged = {*json.loads(client.get_run(run).data.tags.get(TAKEDOWN_TAG, "[]")), document}
        client.set_tag(run, TAKEDOWN_TAG, json.dumps(sorted(flagged)))
    return takedown, found


def _runs(client: MlflowClient, settings: Settings) -> Iterator[tuple[str, str]]:
    """(run, MLflow run) of every run that came to a lineage, oldest first."""
    token = None
    while True:
        page = client.search_runs(
            [experiment_id(client, settings)],
            filter_string=f"tags.`{LINEAGE_TAG}` != ''",
            order_by=["attributes.start_time ASC"],
            max_results=_PAGE,
            page_token=token,
        )
        yield from ((run.data.tags.get(RUN_TAG, run.info.run_name), run.info.run_id) for run in page)
        if not (token := page.token):
            return


def _seen(client: MlflowClient, settings: Settings, run_id: str, mlflow_run_id: str, document: str) -> Iterator[Seen]:
    with tempfile.TemporaryDirectory() as scratch:
        recorded = Path(client.download_artifacts(mlflow_run_id, "lineage", scratch))
        stages = LineageRecord.read(recorded / "lineage.json").stage_keys
        params = load(recorded / "params.yaml")
        version = open_locked(settings.root, (recorded / "dvc.lock").read_text(encoding="utf-8"), run_id)
    index = Index(version.folder)
    for stage in params.training_stages:
        name = stage if stage == "pretrain" else f"finetune@{stage}"
        if name not in stages:
            continue
        if found := _of_stage(index, params, stage, document, _course(client, settings, stages[name])):
            yield Seen(
                run_id,
                mlflow_run_id,
                name,
                times=len(found),
                first_step=found[0].step,
                last_step=found[-1].step,
                epochs=len({one.epoch for one in found}),
            )


def _of_stage(index: Index, params: Params, stage: str, document: str, course: Cursor | None) -> list[Sighting]:
    shape = architecture(params.model, index.tokenizer.vocab_size).shape
    return sightings(index, params.training(stage), shape.num_visual_tokens, params.data.window_documents, params.seed, document, course)


def _course(client: MlflowClient, settings: Settings, key: str) -> Cursor | None:
    """What the stage told of its rows when it ended, where they did not follow from its parameters."""
    told = f"tags.`mmfs.stage_key` = '{key}' and tags.`{COURSE_TAG}` != ''"
    runs = client.search_runs([experiment_id(client, settings)], filter_string=told, max_results=1)
    return Cursor.from_dict(json.loads(runs[0].data.tags[COURSE_TAG])) if runs else None


def _models(client: MlflowClient, seen: Sequence[Seen]) -> Iterator[str]:
    """Versions made of a stage that saw the document: every task's where it was the pretraining."""
    stages: Mapping[str, set[str]] = {one.run_id: {two.stage for two in seen if two.run_id == one.run_id} for one in seen}
    for model in sorted(client.search_registered_models("name LIKE 'mmfs-%'"), key=lambda one: one.name):
        own = f"finetune@{model.name.removeprefix('mmfs-')}"
        for version in sorted(client.search_model_versions(f"name = '{model.name}'"), key=lambda one: int(one.version)):
            if stages.get(version.tags.get(RUN_TAG, ""), set()) & {"pretrain", own}:
                yield f"models:/{model.name}/{version.version}"


def _versions(client: MlflowClient, models: Sequence[str]) -> Iterator[ModelVersion]:
    for address in models:
        _, name, version = address.split("/")
        yield client.get_model_version(name, version)
