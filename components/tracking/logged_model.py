"""One MLflow LoggedModel per model digest: safetensors, JSON and a models-from-code pyfunc; no pickle, no guessing of requirements."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from components.run.failures import FailureClass, StageError
from components.run.filetree import place
from components.serving.signature import signature
from components.settings import Settings
from components.tracking.mlflow_run import connect, experiment_id
from components.tracking.weights import DIGEST_TAG, WeightsRecord, damaged_files

MODEL_NAME = "mmfs"
PYFUNC = Path(__file__).parents[1] / "serving" / "pyfunc.py"
REQUIREMENTS = ("mlflow", "torch", "transformers", "diffusers", "tokenizers", "safetensors", "einops", "numpy", "pillow", "pydantic")


def find(client: MlflowClient, experiment: str, digest: str) -> LoggedModel | None:
    """The finished logged model of a digest, the oldest where two processes uploaded at once."""
    found = client.search_logged_models(
        [experiment], filter_string=f"tags.`{DIGEST_TAG}` = '{digest}'", order_by=[{"field_name": "creation_timestamp", "ascending": True}]
    )
    return next((model for model in found if str(model.status) == "READY"), None)


def stored(client: MlflowClient, settings: Settings, weights: WeightsRecord) -> LoggedModel | None:
    """The logged model of these weights if its files are still there."""
    model = find(client, experiment_id(client, settings), weights.model_digest)
    if model is None:
        return None
    try:
        files = list_artifacts(artifact_uri=f"{model.artifact_location}/artifacts", tracking_uri=settings.tracking_uri)
    except (MlflowException, OSError):
        return None
    return model if files else None


def ensure_stored(settings: Settings, run_id: str | None, weights: WeightsRecord) -> bool:
    """Whether MLflow has the model's bytes, after giving it this machine's copy where it lost them and there is a run to name as source."""
    client = connect(settings)
    if stored(client, settings, weights) is not None:
        return True
    cached = settings.home.weights / weights.model_digest
    if run_id is None or not cached.is_dir() or damaged_files(cached, weights):
        return False
    lost = find(client, experiment_id(client, settings), weights.model_digest)
    if lost is not None:
        client.finalize_logged_model(lost.model_id, "FAILED")
    upload(client, run_id, cached, weights)
    return True


def upload(client: MlflowClient, run_id: str, folder: Path, weights: WeightsRecord) -> str:
    """Store the model unless its digest is known; the id of its LoggedModel. A failed upload is marked FAILED and not found again."""
    experiment = str(client.get_run(run_id).info.experiment_id)
    known = find(client, experiment, weights.model_digest)
    if known is not None:
        return str(known.model_id)
    tags = {DIGEST_TAG: weights.model_digest}
    model = client.create_logged_model(experiment, name=MODEL_NAME, source_run_id=run_id, tags=tags, model_type="interleaved-image-text")
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            packed = Path(scratch) / "model"
            _pack(packed, folder, str(model.model_id), run_id)
            client.log_model_artifacts(model.model_id, str(packed))
        client.finalize_logged_model(model.model_id, "READY")
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    return str(model.model_id)


def download(settings: Settings, digest: str, faults: Callable[[Path], Sequence[str]], target: Path) -> None:
    """Fetch a digest's files into `target`, which appears only when `faults` finds none in them. Raises StageError."""
    client = connect(settings)
    model = find(client, experiment_id(client, settings), digest)
    if model is None:
        message = f"MLflow has no model with the digest {digest[:12]}"
        raise StageError(FailureClass.BAD_DATA, message, "run the stage that trains it again, with `dvc repro --force`")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        try:
            fetched = Path(
                download_artifacts(
                    artifact_uri=model.artifact_location + "/artifacts", dst_path=scratch, tracking_uri=settings.tracking_uri
                )
            )
        except (MlflowException, OSError) as error:
            message = f"the model {digest[:12]} could not be fetched: {str(error).splitlines()[0]}"
            raise StageError(FailureClass.INFRASTRUCTURE, message) from None
        folder = next(path for path in fetched.iterdir() if path.is_dir())
        if damaged := faults(folder):
            message = f"the stored model {digest[:12]} is damaged: {', '.join(damaged)}"
            raise StageError(FailureClass.BAD_DATA, message, "train it again with `dvc repro --force`")
        place(folder, target)


def _pack(target: Path, folder: Path, model_id: str, run_id: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example was not provided")  # it would load the model only to check the signature
        mlflow.pyfunc.save_model(
            path=str(target),
            mlflow_model=Model(model_id=model_id, run_id=run_id),
            python_model=str(PYFUNC),
            artifacts={"weights": str(folder)},
            signature=signature(),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        )
