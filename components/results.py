"""What each stage hands back: small, frozen, and plain enough to travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Result:
    """Base of every result. `metrics` are the stage's headline figures, logged to its MLflow run."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    summary: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class VersionResult(Result):
    """The input, pinned and held by the remote. `digest` is DVC's md5 of data/input."""

    digest: str
    files: int
    bytes: int
    remote: str


@dataclass(frozen=True, kw_only=True)
class PrepareResult(Result):
    """Shards and index are written."""

    documents: int
    quarantined: int
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class TrainResult(Result):
    """A trained model whose bytes are published under `model_digest`."""

    model_digest: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(Result):
    """One task scored. `manifest_sha256` names what was asked; compare results only where it is equal."""

    task: str
    manifest_sha256: str
    samples: int
