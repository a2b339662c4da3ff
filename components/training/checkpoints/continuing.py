"""A training that goes on from another run's checkpoint, on other ranks than that had. Imports no torch."""

from __future__ import annotations

import json
import shutil

from components.checkpoints.manifest import COMMIT, MANIFEST, CheckpointError
from components.committed import Committed, find_committed
from components.continuation import Continuation
from components.run.failures import FailureClass, StageError
from components.settings import Settings
from components.tracking.spool import append_points, read_points
from components.training.checkpoints.commits import checkpoint_folder
from components.training.checkpoints.resume import read_states
from components.training.guards.journal import Journal
from components.training.guards.rollbacks import Decisions, made_under, read_decisions
from components.training.job import POINTS_FILE, Job


def bring(origin: Continuation, job: Job, settings: Settings) -> None:
    """Copy the checkpoint into the job's work folder as its first one, with the curve and the rollbacks up to it; once.

    It is pinned where it came from, so that the run can be reproduced. Raises StageError: bad_data where it is gone or another one.
    """
    folder = checkpoint_folder(job)
    if folder.steps() or job.export.is_dir():
        return
    found = find_committed(settings, origin.run_id, job.stage, origin.step)
    if found.digest != origin.digest:
        message = f"the checkpoint of step {origin.step} of run {origin.run_id} is another one than this run goes on from"
        raise StageError(FailureClass.BAD_DATA, message, "that run has trained the step again; begin a new run with --continue")
    found.folder.pin(origin.step, f"run went on from it at stage key {job.work.parent.name}")
    source, manifest = found.checkpoint.path, (found.checkpoint.path / MANIFEST).read_bytes()
    try:
        shutil.copytree(source, folder.begin(origin.step), ignore=shutil.ignore_patterns(MANIFEST, COMMIT), dirs_exist_ok=True)
        _bring_history(found, job, origin)
        folder.adopt(origin.step, manifest)
    except (CheckpointError, OSError, shutil.Error) as error:
        folder.discard(origin.step)
        message = f"the checkpoint of step {origin.step} of run {origin.run_id} cannot be copied whole: {error}"
        raise StageError(FailureClass.BAD_DATA, message, "free disk space, or go on from another one with --continue RUN@STEP") from None


def _bring_history(found: Committed, job: Job, origin: Continuation) -> None:
    """Before the checkpoint has its name: what a kill leaves of it is written again."""
    body = found.folder.folder.parent
    decided = read_decisions(body).rollbacks[: made_under(read_states(found.checkpoint.path))]
    Decisions(rollbacks=decided, settled=len(decided)).write(job.work)
    job.points.unlink(missing_ok=True)
    append_points(job.points, [point for point in read_points(body / POINTS_FILE)[0] if point["step"] <= origin.step])
    if not job.journal.is_file():
        written = json.loads((found.checkpoint.path / MANIFEST).read_text(encoding="utf-8"))["info"]
        by = {name: written[name] for name in ("ranks", "zero_stage", "micro_batches") if name in written}
        Journal(job.journal).add("continued", origin.step, run=origin.run_id, **by)
