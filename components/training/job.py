"""What a supervisor asks of its ranks: one JSON file in the work folder, and the files they leave there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from components.data.places import ShardPlaces
from components.params import Frozen, TrainParams
from components.run.failures import FailureClass, StageError
from components.run.filetree import write_whole
from components.training.guards.bad_steps import BadSteps
from components.training.guards.journal import JOURNAL_FILE
from components.training.guards.rollbacks import Rollback

JOB_FILE = "job.json"
POINTS_FILE = "points.jsonl"


class Job(Frozen):
    """One training: everything a rank needs to know, and no more than decides its result (besides the places)."""

    version: Literal[1] = 1
    stage: str
    seed: int
    deterministic: bool
    device: Literal["cpu", "cuda"]
    train: TrainParams
    patterns: dict[str, tuple[str, ...]]
    """By key in params.yaml, parts of parameter names that this stage and those after it look for."""
    text_loss_weight: float
    image_loss_weight: float
    condition_drop: float
    window_documents: int
    model: dict[str, Any] | None
    """The model's configuration when it starts from `seed` or from weights from outside; None where it is that of `initial`."""
    initial: Path | None
    """Folder of the weights to start from; None when it starts from `seed`."""
    resume: Path | None
    """A verified checkpoint to go on from."""
    rollbacks: tuple[Rollback, ...] = ()
    """What was decided about bad steps so far."""
    index: Path
    shards: ShardPlaces
    work: Path
    """The work folder: metric points, checkpoints and failures are written here."""

    @property
    def points(self) -> Path:
        return self.work / POINTS_FILE

    @property
    def journal(self) -> Path:
        """What guards, controllers and restarts did, a line each."""
        return self.work / JOURNAL_FILE

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    @property
    def export(self) -> Path:
        """Where the finished weights go, as safetensors."""
        return self.work / "export"


def write_job(job: Job) -> Path:
    """Write the job into its work folder; the file's path."""
    path = job.work / JOB_FILE
    path.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    return path


def read_job(work: Path) -> Job:
    """The job of a work folder. Raises StageError (bad_config) when it is absent or of another version."""
    path = work / JOB_FILE
    try:
        return Job.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        fix = "start the stage again, not its rank program"
        raise StageError(FailureClass.BAD_CONFIG, f"{path} is no job of this version: {error}", fix) from None


def write_failure(work: Path, rank: int, error: StageError) -> None:
    """Leave word of why this rank ends."""
    record: dict[str, Any] = {"class": str(error.failure), "message": error.message, "fix": error.fix, "time": time.time(), "rank": rank}
    if isinstance(error, BadSteps):
        record |= {"first": error.first, "last": error.last}
    write_whole(work / f"failure-{rank}.json", json.dumps(record))


def read_failure(work: Path) -> StageError | None:
    """What the rank that failed first said, if any said something."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in work.glob("failure-*.json")]
    if not records:
        return None
    first = min(records, key=lambda record: (record["class"] == FailureClass.INFRASTRUCTURE, record["time"]))
    failure, message = FailureClass(first["class"]), f"rank {first['rank']}: {first['message']}"
    if "first" in first:
        return BadSteps(failure, message, first["fix"], first["first"], first["last"])
    return StageError(failure, message, first["fix"])


def forget_failures(work: Path) -> None:
    """Remove what ranks of an earlier attempt said."""
    for path in work.glob("failure-*.json"):
        path.unlink()
