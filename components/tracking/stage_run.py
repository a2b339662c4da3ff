"""What a stage tells MLflow. No call waits for the tracking server and none fails because of it, except publishing a model."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from components.run.failures import FailureClass, StageError
from components.settings import Settings
from components.tracking.sender import Sender
from components.tracking.spool import Point, SpoolWriter, now_ms, read_state

CLOSE_TIMEOUT_S = 30.0
PATIENCE_S = 60.0
_MAX_PARAM_CHARACTERS = 6000
_POLL_S = 0.2


def spool_folder(settings: Settings, key: str, parent: str | None) -> Path:
    """Where the records of a stage key wait, below one parent run."""
    return settings.home.spools / f"{key[:20]}-{parent or 'alone'}"


class StageRun:
    """The child run of one stage; open it with `StageRun.open`. `sender` is None where the flow's process carries the spool."""

    def __init__(self, spool: SpoolWriter, sender: Sender | None) -> None:
        self._spool = spool
        self._sender = sender

    @classmethod
    def open(cls, settings: Settings, stage: str, key: str, tags: Mapping[str, str]) -> Self:
        """Begin, or after a restart go on with, the run of `key` below the parent that the environment names."""
        spool = SpoolWriter(spool_folder(settings, key, settings.parent_run_id))
        if spool.is_new:
            all_tags = {"mmfs.stage": stage, "mmfs.stage_key": key, **tags}
            spool.add("open", name=stage, tags=all_tags, parent=settings.parent_run_id, mark=uuid.uuid4().hex)
        if settings.carried:
            return cls(spool, None)
        sender = Sender(spool.folder, settings)
        sender.start()
        return cls(spool, sender)

    def log_metrics(self, points: Sequence[Point]) -> None:
        """Metric points, each `{"step", "time_ms", "metrics"}`; after a restart those already logged are left out."""
        self._spool.add_points(points)

    def log_event(self, point: Point) -> None:
        """A point of something that happens now and then; at one step it may happen more than once."""
        self._spool.add_event(point)

    def rewind(self, step: int, mark: str) -> None:
        """Points after a step will be logged again, because the training went back to it; `mark` names the occasion."""
        self._spool.rewind(step, mark)

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
        self._spool.add("input", name=name, digest=digest, source=source, path=path, context=context)

    def publish_model(self, folder: Path, weights: Mapping[str, Any], patience_s: float = PATIENCE_S) -> None:
        """Upload a model and wait until the store has it. Raises StageError (infrastructure) when it refuses for `patience_s`."""
        position = self._spool.add_model(folder, weights)
        patient_until = None
        while (state := read_state(self._spool.folder)).sent < position:
            if state.error is None:
                patient_until = None
            elif patient_until is None:
                patient_until = time.monotonic() + patience_s
            elif time.monotonic() > patient_until:
                fix = "mend it, or unset MLFLOW_TRACKING_URI, and run the same command to go on"
                raise StageError(FailureClass.INFRASTRUCTURE, f"the model could not be stored in MLflow: {state.error}", fix)
            time.sleep(_POLL_S)

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"], timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """End the run; False when its last records wait on disk for a sender."""
        self._spool.add("close", status=status)
        return self._sender is not None and self._sender.close(timeout_s)


def point(step: int, **metrics: float) -> Point:
    """A metric point of now."""
    return {"step": step, "time_ms": now_ms(), "metrics": metrics}


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, name + ".") if isinstance(value, Mapping) else {name: value}
    return flat
