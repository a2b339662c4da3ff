"""A model's bytes: described by weights.json, kept once per digest in MLflow, cached and verified on this machine.

Nothing here imports MLflow unless the bytes have to be fetched from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from components.run.failures import FailureClass, StageError
from components.run.filetree import place
from components.settings import Settings
from components.tracking.stage_run import StageRun

DIGEST_TAG = "mmfs.model_digest"
WEIGHTS_FILE = "weights.json"
VERSION = 1
_CHUNK_BYTES = 1 << 20


class WeightsFile(BaseModel):
    """One file of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    size: int
    sha256: str


class WeightsRecord(BaseModel):
    """weights.json: what a training stage hands on instead of bytes. `config` is the model's config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int = VERSION
    model_digest: str
    files: tuple[WeightsFile, ...]
    config: dict[str, Any] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a weights.json. Raises StageError (bad_data) when it is absent, broken or newer than this version."""
        try:
            record = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StageError(FailureClass.BAD_DATA, f"{path} does not exist", "run the stage that makes it, or `dvc pull`") from None
        except (ValidationError, UnicodeDecodeError) as error:
            raise StageError(FailureClass.BAD_DATA, f"{path} is no weights record: {error}".replace("\n", "; ")) from None
        if record.version > VERSION:
            raise StageError(FailureClass.BAD_DATA, f"{path} has version {record.version}, this mmfs reads up to {VERSION}", "update mmfs")
        return record

    def write(self, path: Path) -> None:
        """Write it as a stage's out; equal models give equal bytes."""
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def describe_weights(folder: Path) -> WeightsRecord:
    """The record of an exported model: safetensors, config.json, tokenizer.json. Every file that is not hidden counts for the digest."""
    files = tuple(WeightsFile(name=name, size=(folder / name).stat().st_size, sha256=file_sha256(folder / name)) for name in _names(folder))
    config = folder / "config.json"
    return WeightsRecord(model_digest=_digest(files), files=files, config=json.loads(config.read_text()) if config.exists() else {})


def folder_digest(folder: Path) -> str:
    """The digest that a folder would have as a model, whatever it holds. OSError for a file that cannot be read."""
    return _digest([WeightsFile(name=name, size=0, sha256=file_sha256(folder / name)) for name in _names(folder)])


def publish_weights(folder: Path, weights: WeightsRecord, run: StageRun, settings: Settings) -> None:
    """Have MLflow keep the model under its digest and keep a copy on this machine; a known digest is not uploaded twice.

    Returns once MLflow has the bytes. Raises StageError (infrastructure) when it refuses them.
    """
    run.set_tags({DIGEST_TAG: weights.model_digest})
    run.publish_model(folder, weights.model_dump(mode="json"))
    place(folder, settings.home.weights / weights.model_digest)


def fetch_weights(weights: WeightsRecord, settings: Settings) -> Path:
    """A folder with the model's files, each checked against its sha256: the cached one, or else fetched from MLflow.

    Raises StageError: bad_data when nobody published the digest, infrastructure when MLflow does not answer.
    """
    cached = settings.home.weights / weights.model_digest
    if cached.is_dir() and not damaged_files(cached, weights):
        return cached
    from components.tracking.logged_model import download

    download(settings, weights.model_digest, lambda folder: damaged_files(folder, weights), cached)
    return cached


def fetch_digest(digest: str, settings: Settings) -> Path:
    """As `fetch_weights` for a model of which only the digest is known."""
    cached = settings.home.weights / digest
    if cached.is_dir() and not _otherwise(cached, digest):
        return cached
    from components.tracking.logged_model import download

    download(settings, digest, lambda folder: _otherwise(folder, digest), cached)
    return cached


def at_hand(weights: WeightsRecord, settings: Settings) -> bool:
    """Whether the model's bytes can be had: from this machine's copy or from MLflow. Raises StageError when MLflow does not answer."""
    cached = settings.home.weights / weights.model_digest
    if cached.is_dir() and not damaged_files(cached, weights):
        return True
    from components.tracking.logged_model import stored
    from components.tracking.mlflow_run import connect

    return stored(connect(settings), settings, weights) is not None


def damaged_files(folder: Path, weights: WeightsRecord) -> list[str]:
    """Names of files that are absent or differ from the record."""
    return [file.name for file in weights.files if not _matches(folder / file.name, file)]


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _names(folder: Path) -> list[str]:
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in inside if not any(part.startswith(".") for part in path.parts))


def _digest(files: Iterable[WeightsFile]) -> str:
    return hashlib.sha256(json.dumps([[file.name, file.sha256] for file in files]).encode()).hexdigest()


def _otherwise(folder: Path, digest: str) -> list[str]:
    found = folder_digest(folder)
    return [] if found == digest else [f"its files have the digest {found[:12]}"]


def _matches(path: Path, expected: WeightsFile) -> bool:
    return path.is_file() and path.stat().st_size == expected.size and file_sha256(path) == expected.sha256
