"""A committed step of a run: where its checkpoint lies, and its weights as a model. Imports no torch."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.manifest import MANIFEST, Checkpoint, CheckpointError, verify
from components.checkpoints.places import PlaceError
from components.params import TASKS
from components.run.events import Event, read_events
from components.run.failures import FailureClass, StageError
from components.run.filetree import link_tree, place
from components.run.lineage import LineageRecord
from components.run.paths import RunFiles
from components.run.workspace import RunRecord
from components.settings import Settings
from components.tracking.weights import WeightsRecord, describe_weights
from components.training.checkpoints.commits import KEPT, second_place

FETCHED = "fetched"
"""Folder beside the unfinished work: checkpoints that were copied from the second place to be looked at."""
EXPORT_PROGRAM = "components.training.checkpoints.export_step"


@dataclass(frozen=True)
class Committed:
    """A checkpoint of `stage` (`pretrain` or a task) of a run; `address` is what dvc.yaml calls the stage, `key` its stage key."""

    run: RunRecord
    stage: str
    address: str
    key: str
    folder: CheckpointFolder
    checkpoint: Checkpoint
    digest: str
    """sha256 of its manifest, which names the sha256 of every file."""

    @property
    def step(self) -> int:
        return self.checkpoint.step

    @property
    def tags(self) -> dict[str, str]:
        """What a model made of it comes from."""
        request = self.run.request
        return {
            "mmfs.run_id": self.run.run_id,
            "mmfs.stage": self.address,
            "mmfs.stage_key": self.key,
            "mmfs.step": str(self.step),
            "mmfs.checkpoint": self.digest,
            "mmfs.git_sha": request.git_sha,
            "mmfs.patch": request.patch_sha256 or "none",
            "mmfs.params": request.params_sha256,
        }


def find_committed(settings: Settings, run_id: str, stage: str, step: int | None = None) -> Committed:
    """The checkpoint of a step, or the newest; its files are not looked at yet. One that only the second place has is copied here.

    Raises StageError naming the steps there are, or why there are none.
    """
    files, address = settings.home.run(run_id), address_of(stage)
    record = RunRecord.read(files.record)
    if record is None:
        raise StageError(FailureClass.BAD_DATA, f"run {run_id} has no record any more", "`mmfs runs` lists the runs")
    key = stage_key(files, address, run_id)
    work = settings.work_root / key
    places = (work / "body" / "checkpoints", work / KEPT)
    folder = CheckpointFolder(next((place for place in places if place.is_dir()), places[0]))
    folder = _from_second(settings, key, folder, step) or folder
    if not folder.steps():
        message = f"{address} of run {run_id} has no checkpoint: none was committed yet, or it has finished and kept only pinned ones"
        raise StageError(FailureClass.BAD_CONFIG, message, "what a run finished is registered, `mmfs models list` shows it")
    try:
        checkpoint = folder.marked(folder.steps()[-1] if step is None else step)
        digest = hashlib.sha256((checkpoint.path / MANIFEST).read_bytes()).hexdigest()
        return Committed(record, stage, address, key, folder, checkpoint, digest)
    except (CheckpointError, FileNotFoundError) as error:  # retention may remove it under our eyes
        kept = ", ".join(map(str, folder.steps())) or "none yet"
        raise StageError(FailureClass.BAD_CONFIG, str(error), f"committed steps of {address} of run {run_id}: {kept}") from None


def find_unfinished(settings: Settings, run_id: str, step: int | None = None) -> Committed:
    """The same of the last training stage that a run has begun."""
    files = settings.home.run(run_id)
    begun = {stage: events[0].time_ms for stage in ("pretrain", *TASKS) if (events := _started(files, address_of(stage)))}
    if not begun:
        raise StageError(FailureClass.BAD_CONFIG, f"run {run_id} has not begun to train", "name another run, `mmfs runs` lists them")
    return find_committed(settings, run_id, max(begun, key=lambda stage: begun[stage]), step)


def address_of(stage: str) -> str:
    """What dvc.yaml calls `pretrain` or a task's stage."""
    return stage if stage == "pretrain" else f"finetune@{stage}"


@contextmanager
def hold(settings: Settings, committed: Committed) -> Iterator[Committed]:
    """The same checkpoint, verified, in a place that retention does not know, while the block lasts. Raises StageError (bad_data)."""
    settings.home.weights.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home.weights, prefix=".checkpoint-") as scratch:
        own = Path(scratch) / committed.checkpoint.path.name
        try:
            link_tree(committed.checkpoint.path, own)
            checkpoint = verify(own)
        except (CheckpointError, OSError, shutil.Error) as error:
            steps = ", ".join(map(str, committed.folder.steps())) or "none"
            message = f"the checkpoint of step {committed.step} is damaged, or was dropped meanwhile: {error}"
            raise StageError(
                FailureClass.BAD_DATA, message, f"steps there are now: {steps}; `checkpoints` in params.yaml says which are kept"
            ) from None
        yield replace(committed, checkpoint=checkpoint)


def export_committed(settings: Settings, committed: Committed) -> tuple[Path, WeightsRecord]:
    """The step's weights as a model's folder among the weights of this machine, and their record. A process of its own makes them.

    Raises StageError with its last words when it cannot.
    """
    settings.home.weights.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home.weights, prefix=".export-") as scratch:
        fresh = Path(scratch) / "model"
        command = [sys.executable, "-m", EXPORT_PROGRAM, str(committed.checkpoint.path), str(fresh)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            words = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise StageError(FailureClass.BAD_DATA, f"step {committed.step} could not be exported: {words}")
        weights = describe_weights(fresh)
        target = settings.home.weights / weights.model_digest
        place(fresh, target)
    return target, weights


def stage_key(files: RunFiles, address: str, run_id: str) -> str:
    """The key under which a run computed a stage, `address` in dvc.yaml. Raises StageError where it has not begun it."""
    if started := _started(files, address):
        return str(started[-1].values["key"])
    if files.lineage.is_file() and address in (keys := LineageRecord.read(files.lineage).stage_keys):
        return keys[address]
    message = f"run {run_id} has not begun {address}"
    raise StageError(FailureClass.BAD_CONFIG, message, "name another stage with --stage, or wait until it has")


def _from_second(settings: Settings, key: str, local: CheckpointFolder, step: int | None) -> CheckpointFolder | None:
    """A folder beside the unfinished work with the step, or with the newest, where the second place has it and `local` has not."""
    second = second_place(settings, key)
    if second is None or step in local.steps():
        return None
    newest, folder = max(local.steps(), default=0), CheckpointFolder(settings.work_root / key / FETCHED)
    try:
        there = second.steps()
        wanted = max(there, default=0) if step is None else step
        if wanted not in there or (step is None and wanted <= newest):
            return None
        if wanted not in folder.steps():
            folder.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.folder, prefix=".copying-") as scratch:  # another process may copy it too
                copy = second.copy_to(wanted, CheckpointFolder(Path(scratch)))
                place(copy.path, folder.folder / copy.path.name)
        return folder
    except (PlaceError, CheckpointError) as error:
        if newest and step is None:
            return None
        raise StageError(FailureClass.INFRASTRUCTURE, f"MMFS_CHECKPOINTS: {error}", "look whether it answers, or unset it") from None


def _started(files: RunFiles, address: str) -> list[Event]:
    return [event for event in read_events(files.events(address)) if event.name == "started"]
