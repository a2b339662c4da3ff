"""A training that goes on from another run's checkpoint, on other ranks than that had. Imports no torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.checkpoints.manifest import COMMIT, MANIFEST, CheckpointError, read_manifest
from components.committed import find_committed
from components.continuation import Continuation
from components.run.failures import FailureClass, StageError
from components.run.filetree import place
from components.settings import Settings
from components.training.checkpoints.commits import checkpoint_folder
from components.training.guards.journal import Journal
from components.training.job import Job


def bring(origin: Continuation, job: Job, settings: Settings) -> None:
    """Copy the checkpoint into the job's work folder as its first one, once. The curve and the rollbacks up to it are in it.

    It is kept below `continued` under its digest, so that the run can be reproduced when the other one's work is gone. Raises StageError:
    bad_data where it is gone, damaged or another one.
    """
    folder = checkpoint_folder(job)
    if folder.steps() or job.export.is_dir():
        return
    try:
        kept = _kept(origin, job.stage, settings)
        shutil.copytree(kept, folder.begin(origin.step), ignore=shutil.ignore_patterns(MANIFEST, COMMIT), dirs_exist_ok=True)
        _tell(job, read_manifest(kept)["info"], origin)
        folder.adopt(origin.step, (kept / MANIFEST).read_bytes())
    except (CheckpointError, OSError, shutil.Error) as error:
        folder.discard(origin.step)
        message = f"the checkpoint of step {origin.step} of run {origin.run_id} cannot be copied whole: {error}"
        raise StageError(FailureClass.BAD_DATA, message, "free disk space, or go on from another one with --continue RUN@STEP") from None


def _kept(origin: Continuation, stage: str, settings: Settings) -> Path:
    """This machine's copy of the checkpoint."""
    kept = settings.home.continued / origin.digest
    if not kept.is_dir():
        found = find_committed(settings, origin.run_id, stage, origin.step)
        if found.digest != origin.digest:
            message = f"the checkpoint of step {origin.step} of run {origin.run_id} is another one than this run goes on from"
            raise StageError(FailureClass.BAD_DATA, message, "that run has trained the step again; begin a new run with --continue")
        place(found.checkpoint.path, kept)
    return kept


def _tell(job: Job, written: Mapping[str, Any], origin: Continuation) -> None:
    """Once, before the checkpoint has its name: what a kill leaves of it is copied again."""
    if not job.journal.is_file():
        by = {name: written[name] for name in ("ranks", "zero_stage", "micro_batches") if name in written}
        Journal(job.journal).add("continued", origin.step, run=origin.run_id, **by)
