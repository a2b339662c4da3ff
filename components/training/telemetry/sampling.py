"""When samples are made beside a training, by a process of its own that gives way. Imports no torch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from components.checkpoints.folder import CheckpointFolder
from components.launch.local import Process, Starter, start_process
from components.run.events import EventWriter
from components.run.filetree import link_tree, remove
from components.tracking.stage_run import StageRun
from components.training.job import Job

PROGRAM = "components.training.telemetry.sample_rank"
FOLDER = "samples"
_LOOK_S = 1.0
_log = logging.getLogger(__name__)


class Samples:
    """Call `look` now and then. Each `samples_every_steps` the last committed checkpoint is sampled; a picture goes to MLflow and the flow.

    A set that is not done when the next is due delays that one; one that fails is a line in the log and nothing more.
    """

    def __init__(
        self,
        job: Job,
        tracking: StageRun,
        events: EventWriter,
        clock: Callable[[], float] = time.monotonic,
        start: Starter = start_process,
    ) -> None:
        self._job, self._tracking, self._events, self._clock, self._start = job, tracking, events, clock, start
        self._every = job.train.telemetry.samples_every_steps
        self._folder = job.work / FOLDER
        self._told = {path.name for path in self._folder.glob("step-*.png")}
        self._tried = max((_step(path) for path in self._folder.glob("step-*.png")), default=0)
        self._process: Process | None = None
        self._looked = -_LOOK_S

    def look(self) -> None:
        """Begin what is due, and tell what is done."""
        if not self._every or self._clock() - self._looked < _LOOK_S:
            return
        self._looked = self._clock()
        if self._process is not None and (status := self._process.poll()) is not None:
            self._process = None
            remove(self._folder / f".step-{self._tried:08d}")
            if status:
                _log.warning("samples of step %d were not made: their process ended with %d, see %s", self._tried, status, self._log_file)
        for path in sorted(self._folder.glob("step-*.png")):
            if path.name not in self._told:
                self._told.add(path.name)
                self._tracking.log_artifact(path, FOLDER)
                self._events.artifact(path, "image", f"{self._job.stage}: step {_step(path)}")
        if self._process is None:
            self._begin()

    def close(self) -> None:
        """End what is still being made."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, 9)

    @property
    def _log_file(self) -> Path:
        return self._job.work / "logs" / "samples.log"

    def _begin(self) -> None:
        folder = CheckpointFolder(self._job.checkpoints)
        newest = max(folder.steps(), default=0)
        if newest // self._every <= self._tried // self._every:
            return
        self._tried = newest
        self._folder.mkdir(exist_ok=True)
        self._log_file.parent.mkdir(exist_ok=True)
        copy = self._folder / f".step-{newest:08d}"
        remove(copy)
        link_tree(self._job.checkpoints / f"step-{newest:08d}", copy)  # retention may remove the original meanwhile
        arguments = [str(copy), str(self._folder / f"step-{newest:08d}.png")]
        self._process = self._start(PROGRAM, arguments, {**os.environ, "CUDA_VISIBLE_DEVICES": ""}, self._log_file)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
