"""DVC-tracked inputs as MLflow dataset inputs: DVC's md5 is the digest, the remote's object the source."""

from __future__ import annotations

from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made at import time
from mlflow.entities import DatasetInput, InputTag


def dataset_input(name: str, digest: str, source: str, path: str, context: str) -> DatasetInput:
    """One input of a run: `digest` is DVC's md5, `source` the address of the object in the remote, `path` the file in the checkout."""
    where = resolve_dataset_source(source) if "://" in source else LocalArtifactDatasetSource(source)
    dataset = MetaDataset(where, name=name, digest=digest)  # type: ignore[abstract]  # MLflow leaves `profile` abstract here
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", context), InputTag("mmfs.dvc_path", path)])
