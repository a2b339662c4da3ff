"""The checkpoints of a job as its supervisor handles them: where it goes on, who commits, what outlives it. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from components.checkpoints.committer import ROUTINE, Committer
from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.places import open_place
from components.checkpoints.resume import find_resume
from components.checkpoints.second import SecondPlace
from components.run.failures import FailureClass, StageError
from components.run.filetree import write_whole
from components.settings import Settings
from components.tracking.spool import last_step, read_points
from components.training.checkpoints.identity import identity_of
from components.training.checkpoints.resume import read_states, refuse_rolled_back
from components.training.checkpoints.shape import CONVERTED, fitted
from components.training.guards.journal import Journal
from components.training.guards.rollbacks import Decisions, made_under
from components.training.job import POINTS_FILE, Job, read_job

KEPT = "checkpoints"
"""Folder beside the unfinished work: the pinned checkpoints of a training that has ended."""
COMMITS_FILE = "checkpoints.jsonl"
"""In the work folder: what each checkpoint took, a line each, in the form of the journal."""


def checkpoint_folder(job: Job) -> CheckpointFolder:
    """The job's checkpoints, kept as its parameters say."""
    return CheckpointFolder(job.checkpoints, job.train.checkpoints.retention)


def second_place(settings: Settings, key: str) -> SecondPlace | None:
    """Where the checkpoints of a stage key lie besides the work folder, if the settings name a place. Raises StageError (bad_config)."""
    if settings.checkpoints is None:
        return None
    try:
        return SecondPlace(open_place(settings.checkpoints, key))
    except ValueError as error:
        raise StageError(FailureClass.BAD_CONFIG, f"MMFS_CHECKPOINTS: {error}") from None


def going_on(job: Job, second: SecondPlace | None = None) -> tuple[Job, list[str]]:
    """The job with the checkpoint it goes on from, fitted to its ranks, if there is one, and what was passed over: see find_resume.

    A checkpoint knows the curve, and what had been decided about bad steps, when it was written. A machine that was not there takes both
    from it.
    """
    found, notes = find_resume(checkpoint_folder(job), identity_of(job), refuse_rolled_back(job.rollbacks), second)
    if found is None:
        return job.model_copy(update={"resume": None}), notes
    if made_under(read_states(found.path)) > len(job.rollbacks):
        decided = read_job(found.path).rollbacks
        Decisions(rollbacks=decided, settled=len(decided)).write(job.work)
        job = job.model_copy(update={"rollbacks": decided})
    curve = found.path / POINTS_FILE
    if last_step(read_points(curve)[0], "loss") > last_step(read_points(job.points)[0], "loss"):
        write_whole(job.points, curve.read_bytes())
    return job.model_copy(update={"resume": fitted(found, job.train, job.seed, job.work / CONVERTED)}), notes


def committer_of(job: Job, second: SecondPlace | None = None) -> Committer:
    """Commits the job's checkpoints while the ranks run, and tells the journal."""

    def score(step: int) -> float | None:
        rule = job.train.checkpoints
        if not rule.keep_best:
            return None
        known = (point["metrics"] for point in reversed(read_points(job.points)[0]) if point["step"] <= step)
        return next((metrics[rule.best_by] for metrics in known if rule.best_by in metrics), None)

    def tell(kind: str, step: int, **values: Any) -> None:
        (Journal(job.work / COMMITS_FILE) if kind in ROUTINE else Journal(job.journal)).add(kind, step, **values)

    return Committer(checkpoint_folder(job), tell, second, score)


def keep_pinned(job: Job, keep: Path) -> list[int]:
    """Move the pinned checkpoints out of the work that ends with the stage, into a folder beside it; their steps."""
    folder = checkpoint_folder(job)
    pinned = [step for step in folder.steps() if step in folder.pins()]
    for step in pinned:
        keep.mkdir(parents=True, exist_ok=True)
        target = keep / f"step-{step:08d}"
        if not target.exists():
            os.replace(folder.folder / target.name, target)
    return pinned
