"""What a stage tells MLflow. No call waits for the tracking server and none fails because of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from components.run.failures import FailureClass, StageError
from components.settings import Settings
from components.tracking.sender import Sender
from components.tracking.spool import Point, Spool, now_ms

CLOSE_TIMEOUT_S = 30.0
_MAX_PARAM_CHARACTERS = 6000


class StageRun:
    """The child run of one stage; open it with `StageRun.open`."""

    def __init__(self, spool: Spool, sender: Sender) -> None:
        self._spool = spool
        self._sender = sender

    @classmethod
    def open(cls, settings: Settings, stage: str, key: str, tags: Mapping[str, str]) -> Self:
        """Begin, or after a restart go on with, the run of `key` below the parent that the environment names."""
        spool = Spool(settings.home.spools / f"{key[:20]}-{settings.parent_run_id or 'alone'}")
        if not spool.all_records():
            all_tags = {"mmfs.stage": stage, "mmfs.stage_key": key, **tags}
            spool.add("open", name=stage, tags=all_tags, parent=settings.parent_run_id, mark=uuid.uuid4().hex)
        sender = Sender(spool, settings)
        sender.start()
        return cls(spool, sender)

    def log_metrics(self, points: Sequence[Point]) -> None:
        """Metric points, each `{"step", "time_ms", "metrics"}`; after a restart those already logged are left out."""
        self._spool.add_points(points)

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Final figures, one value each."""
        self._spool.add_summary(metrics)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Parameters; a nested mapping becomes dotted names."""
        self._spool.add("params", values={key: str(value)[:_MAX_PARAM_CHARACTERS] for key, value in _flat(params).items()})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Tags; a later value of the same name wins."""
        self._spool.add("tags", values={key: str(value) for key, value in tags.items()})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file or a folder, as it is now."""
        self._spool.add_file(path, folder)

    def log_input(self, name: str, digest: str, source: str, path: str, context: str = "training") -> None:
        """A dataset the stage reads: its DVC digest, the address of its bytes and its path in the repository."""
        self._spool.add("input", name=name, digest=digest[:36], source=source, path=path, context=context)

    def run_id(self, timeout_s: float = 60.0) -> str:
        """The MLflow run's id. Raises StageError (infrastructure) when the server gives none in time."""
        run_id = self._sender.run_id(timeout_s)
        if run_id is None:
            fix = "start it with `mmfs up`, or unset MLFLOW_TRACKING_URI"
            raise StageError(FailureClass.INFRASTRUCTURE, "the MLflow tracking store does not answer", fix)
        return run_id

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"], timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """End the run; False when its last records wait on disk for the server."""
        self._spool.add("close", status=status)
        sent = self._sender.close(timeout_s)
        if sent and status == "FINISHED":
            self._spool.remove()
        else:
            self._spool.close()
        return sent


def point(step: int, **metrics: float) -> Point:
    """A metric point of now."""
    return {"step": step, "time_ms": now_ms(), "metrics": metrics}


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, name + ".") if isinstance(value, Mapping) else {name: value}
    return flat
