"""A committed step of a training as a model version, with where it comes from; the checkpoint is kept as long as its training is."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow.tracking import MlflowClient

from components.committed import Committed, export_committed
from components.evaluate_step import PREFIX, stage_run
from components.evaluation.manifest import MANIFEST_FILE
from components.register import Origin, model_name, register_digest
from components.registry.package import evaluation_tag
from components.settings import Settings
from components.tracking.logged_model import upload
from components.tracking.mlflow_run import connect, experiment_id


@dataclass(frozen=True)
class RegisteredStep:
    """A version made of a step. `created` is false where these weights had one; `evaluated` names the artifact folders of its scores."""

    model: str
    version: int
    step: int
    digest: str
    checkpoint: str
    created: bool
    evaluated: tuple[str, ...]


def register_step(settings: Settings, committed: Committed, task: str | None = None) -> RegisteredStep:
    """Publish the step's weights, register them under the model of `task` (the stage's own where absent) and pin the checkpoint.

    Scores of the step that `mmfs evaluate` has logged become evidence of the version. A run with changed source cannot be promoted, nor
    can its steps. Raises StageError.
    """
    client = connect(settings)
    run_id = stage_run(client, settings, committed)
    model = model_name(task or committed.stage)
    committed.folder.pin(committed.step, f"registered as {model}")
    folder, weights = export_committed(settings, committed)
    upload(client, run_id, folder, weights)
    patched = committed.run.request.patch_sha256 is not None
    obstacle = "the run's source was changed without a commit" if patched else None
    origin = Origin(committed.run.run_id, run_id, experiment_id(client, settings), committed.tags, obstacle)
    version, created = register_digest(client, model, weights.model_digest, origin)
    evaluated = _attach(client, model, str(version.version), run_id, committed.step)
    return RegisteredStep(model, int(version.version), committed.step, weights.model_digest, committed.digest, created, evaluated)


def _attach(client: MlflowClient, model: str, version: str, run_id: str, step: int) -> tuple[str, ...]:
    """Name the places of the step's scores at this model's task on the version, a tag a manifest."""
    places = [one.path for one in client.list_artifacts(run_id, f"{PREFIX}/step-{step:08d}") if one.is_dir]
    own = [place for place in places if model_name(place.rpartition("/")[2]) == model]
    for place in own:
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(client.download_artifacts(run_id, f"{place}/{MANIFEST_FILE}", folder))
            digest = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
        client.set_model_version_tag(model, version, evaluation_tag(digest), f"runs:/{run_id}/{place}")
    return tuple(own)
