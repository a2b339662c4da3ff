"""Commits checkpoints off the training path: in a thread of the process that watches the ranks, while they go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.manifest import CheckpointError, read_manifest
from components.checkpoints.places import PlaceError
from components.checkpoints.resume import check_alone
from components.checkpoints.second import SecondPlace, SupersededError
from components.run.failures import FailureClass, StageError, explain
from components.run.lease import Lease, Owner

ROUTINE = ("checkpoint", "checkpoint_copied")
"""What a committer tells when all is well: seconds on the training path (wait_s, save_s) and off it, and bytes."""
_POLL_S = 0.05
_log = logging.getLogger(__name__)
Score = Callable[[int], float | None]
"""What a checkpoint of a step is worth, lower is better, if that is known."""


class Tell(Protocol):
    """Takes note of an action."""

    def __call__(self, kind: str, step: int, **values: Any) -> None: ...


def unknown(step: int) -> None:
    """No score."""
    return None


class Committer:
    """Use as a context manager around the ranks. It alone commits while it lives: its lease on the folder says so to ranks and others.

    A second place that refuses or does not answer costs a training nothing but that copy: it is told and tried again with the next
    checkpoint. A full disk, or a place that another process took over, is a `problem` that must end the ranks.
    """

    def __init__(self, folder: CheckpointFolder, tell: Tell, second: SecondPlace | None = None, score: Score = unknown) -> None:
        self._folder = folder
        self._tell = tell
        self._second = second
        self._score = score
        self._lease = Lease(folder.folder, self._lost)
        self._problem: StageError | None = None
        self._sent: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="committer", daemon=True)

    @property
    def problem(self) -> StageError | None:
        """Why checkpoints cannot be committed any more."""
        return self._problem

    def __enter__(self) -> Self:
        if not self._lease.try_acquire():
            check_alone(self._folder.folder)
            raise StageError(FailureClass.INFRASTRUCTURE, f"this process writes the checkpoints in {self._folder.folder} already")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """No rank runs any more: commit what they completed, discard what they did not. A problem is left for the next start."""
        self._stop.set()
        self._thread.join()
        try:
            if self._problem is None:
                self._turn()
            if self._problem is None:
                for note in self._folder.recover():
                    _log.warning("checkpoint of %s", note)
        finally:
            self._lease.release()
        if self._problem is not None:
            _log.warning("%s", self._problem.line())

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S) and self._problem is None:
            self._turn()

    def _turn(self) -> None:
        """Commit what is complete, and copy the newest where it is not copied yet. What goes wrong is kept as the problem."""
        try:
            for step in self._folder.waiting():
                self._commit(step)
            if self._second is not None and (steps := self._folder.steps()) and steps[-1] != self._sent:
                self._send(self._second, steps[-1])
        except SupersededError as error:
            fix = "train it in one place only; what is committed here and there stays"
            self._problem = StageError(FailureClass.BAD_CONFIG, str(error), fix)
        except Exception as error:
            self._problem = explain(error)

    def _commit(self, step: int) -> None:
        began = time.monotonic()
        if self._second is not None:
            self._folder.sending(True)
        try:
            path = self._folder.commit(step, score=self._score(step))
        except CheckpointError as error:
            self._folder.discard(step)
            self._tell("checkpoint_discarded", step, reason=str(error))
            return
        record = read_manifest(path)
        size = sum(described["size"] for described in record["files"].values())
        self._tell("checkpoint", step, bytes=size, commit_s=time.monotonic() - began, **record["info"].get("cost", {}))

    def _send(self, second: SecondPlace, step: int) -> None:
        """Copy a committed checkpoint to the second place; a refusal is told and not raised."""
        began = time.monotonic()
        self._folder.sending(True)
        try:
            if not second.claimed:  # once: who was superseded must not take it back
                owner = Owner.myself()
                second.claim({"host": owner.host, "pid": owner.pid, "boot": owner.boot})
            second.check_claim()
            if step not in second.steps() or self._sent is not None:
                second.send(self._folder.folder / f"step-{step:08d}", step)
                second.retain(self._folder.retention, self._folder.pins(), self._folder.scores(), step)
                self._tell("checkpoint_copied", step, seconds=time.monotonic() - began)
        except PlaceError as error:
            self._tell("checkpoint_not_copied", step, reason=str(error))
        finally:
            self._sent = step
            self._folder.sending(False)

    def _lost(self) -> None:
        message = f"another process took over the checkpoints in {self._folder.folder}"
        self._problem = StageError(FailureClass.INFRASTRUCTURE, message, "let it end, or stop it, and run the same command again")
