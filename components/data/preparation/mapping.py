"""Many tasks on a crew: tried again where they fail, given up with a reason, watched while they run."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from typing import Any

from components.data.documents import CorpusError
from components.data.preparation.attempt import Failed, Mark, Task, read_mark
from components.data.preparation.executors import Crew, Processes
from components.run.failures import FailureClass, StageError, full_disk

_log = logging.getLogger(__name__)
POLL_S = 0.2
BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
MAX_BARREN = 3
"""Times that a crew may lose its workers before any has begun."""
Done = Callable[[str, Any], None]
Watch = Callable[[Sequence[Mark]], None]


@dataclass(frozen=True)
class GivenUp:
    """A task that failed in every attempt."""

    name: str
    attempts: int
    reason: str
    trace: str = ""


@dataclass
class _State:
    task: Task
    attempts: int = 0
    not_before: float = 0.0
    suspect: bool = False


@dataclass
class TaskMap:
    """Runs tasks. A task fails with its own exception or because the worker that runs it dies.

    When workers die together nobody knows whose fault it was: each task that was running is then tried alone, in a worker of its own, so
    that a good one is never given up for a bad neighbour. `on_done` is told of each value or GivenUp, `watch` of the running marks.
    """

    crew: Crew
    attempts: int
    timeout_s: float
    on_done: Done
    watch: Watch = lambda marks: None
    _running: dict[Future[Any], _State] = field(default_factory=dict)
    _alone: dict[Future[Any], _State] = field(default_factory=dict)
    _barren: int = 0

    def run(self, tasks: Sequence[Task]) -> None:
        """Run all to their ends. Raises CorpusError for a corpus that cannot be used and StageError for a full disk or a crew without
        workers."""
        waiting = [_State(task) for task in tasks]
        lone = Processes(1, self.timeout_s)
        try:
            while waiting or self._running or self._alone:
                waiting = self._submit(waiting, lone)
                pending = [*self._running, *self._alone]
                ended, _ = wait(pending, POLL_S, FIRST_COMPLETED) if pending else (set(), None)
                if not pending:
                    time.sleep(POLL_S)
                waiting += self._collect(ended, lone)
                states = [*self._running.values(), *self._alone.values()]
                self.watch([mark for state in states if (mark := read_mark(state.task.mark)) is not None])
        finally:
            lone.end()

    def _submit(self, waiting: list[_State], lone: Processes) -> list[_State]:
        left, now = [], time.monotonic()
        for state in waiting:
            crowded = bool(self._alone) if state.suspect else len(self._running) >= self.crew.workers + 1
            if crowded or state.not_before > now:
                left.append(state)
                continue
            crew, place = (lone, self._alone) if state.suspect else (self.crew, self._running)
            try:
                place[crew.submit(state.task)] = state
            except BrokenExecutor:  # it broke just now: the futures that it holds say so, where there are any
                left.append(state)
                if not place:
                    crew.renew()
                    self._count_barren(True)
        return left

    def _collect(self, ended: set[Future[Any]], lone: Processes) -> list[_State]:
        again: list[_State] = []
        for future in ended & self._alone.keys():
            state = self._alone.pop(future)
            if isinstance(future.exception(), BrokenExecutor):
                again += self._failed(state, self._death(state))
                lone.renew()
            else:
                again += self._settle(future, state)
        broken = False
        for future in ended & self._running.keys():
            if isinstance(future.exception(), BrokenExecutor):
                broken = True
            else:
                again += self._settle(future, self._running.pop(future))
        return again + (self._recover() if broken else [])

    def _settle(self, future: Future[Any], state: _State) -> list[_State]:
        error = future.exception()
        value = future.result() if error is None else _failure(error)
        if not isinstance(value, Failed):
            self._barren = 0
            self.on_done(state.task.name, value)
            return []
        return self._failed(state, value)

    def _recover(self) -> list[_State]:
        """After a death: everything that was given to the crew is given again, what was running to a worker of its own."""
        states = list(self._running.values())
        self._running.clear()
        self.crew.renew()
        suspects = [state for state in states if read_mark(state.task.mark) is not None]
        self._count_barren(not suspects)
        for state in suspects:
            state.suspect = True
        if len(suspects) == 1:
            again = self._failed(suspects[0], self._death(suspects[0]))
            return [state for state in states if state is not suspects[0]] + again
        for state in suspects:
            state.task.mark.unlink(missing_ok=True)
        return states

    def _count_barren(self, barren: bool) -> None:
        self._barren = self._barren + 1 if barren else 0
        if self._barren >= MAX_BARREN:
            message = "worker processes end before they begin to prepare"
            raise StageError(FailureClass.INFRASTRUCTURE, message, "see the log of the stage; lower MMFS_PREPARE_WORKERS")

    def _death(self, state: _State) -> Failed:
        mark = read_mark(state.task.mark)
        state.task.mark.unlink(missing_ok=True)
        if mark is not None and self.timeout_s and time.time() - mark.started >= self.timeout_s:
            return Failed("error", f"it took longer than {self.timeout_s:g} s")
        return Failed("error", "its worker process died: a crash, or the memory was used up")

    def _failed(self, state: _State, failure: Failed) -> list[_State]:
        if failure.kind == "corpus":
            raise CorpusError(failure.reason)
        if failure.kind == "disk":
            raise full_disk(failure.reason)
        state.attempts += 1
        _log.warning("%s, attempt %d of %d: %s\n%s", state.task.name, state.attempts, self.attempts, failure.reason, failure.trace)
        if state.attempts >= self.attempts:
            self.on_done(state.task.name, GivenUp(state.task.name, state.attempts, failure.reason, failure.trace))
            return []
        state.not_before = time.monotonic() + min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (state.attempts - 1))
        return [state]


def _failure(error: BaseException) -> Failed:
    """A failure outside of the task: of its mark, of the way to its worker, or of a worker that Dask gave up."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failed("disk", f"the disk is full{f' while writing {error.filename}' if error.filename else ''}")
    if type(error).__name__ == "KilledWorker":
        return Failed("error", "its worker process died: a crash, the memory was used up, or it took too long")
    return Failed("error", f"{type(error).__name__}: {error}")
