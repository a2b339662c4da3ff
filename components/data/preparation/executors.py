"""Where tasks run: in this process, in worker processes here, or on the workers of a Dask scheduler. All are concurrent.futures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from components.data.preparation.attempt import Task, attempt, guarded
from components.data.preparation.part import Tell
from components.run.failures import FailureClass, StageError

CONNECT_TIMEOUT_S = 30.0


class Crew(Protocol):
    """Workers that take tasks. A future may end with BrokenExecutor: then every task that was given to the crew is to be given again."""

    @property
    def workers(self) -> int:
        """How many tasks run at once, now."""
        ...

    def submit(self, task: Task) -> Future[Any]:
        """The future of an attempt: a value or Failed."""
        ...

    def renew(self) -> None:
        """Begin with new workers after some died."""
        ...


class Here:
    """This process; `tell` hears of every document. A task that ends its process ends this one."""

    workers = 1

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def submit(self, task: Task) -> Future[Any]:
        """An attempt that is over when this returns."""
        future: Future[Any] = Future()
        future.set_result(guarded(task, self._tell))
        return future

    def renew(self) -> None:
        """There is nothing to renew."""


class Processes:
    """Worker processes of this machine, started by a fork server that has the imports; they end with this process."""

    def __init__(self, workers: int, timeout_s: float) -> None:
        self.workers = workers
        self._timeout_s = timeout_s
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["components.data.preparation.attempt", "components.data.preparation.finish"])
        self._own: set[BaseProcess] = set()
        self._pool: Executor | None = None

    def submit(self, task: Task) -> Future[Any]:
        """An attempt in a worker, within the time limit."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, self._context, initializer=_begin_worker)
        before = set(multiprocessing.active_children())
        future = self._pool.submit(attempt, task, self._timeout_s)  # starts a worker where none is idle
        self._own |= set(multiprocessing.active_children()) - before
        return future

    def renew(self) -> None:
        """End what is left of the workers; new ones come with the next task."""
        self.end()

    def end(self) -> None:
        """Kill the workers, whatever they do."""
        for worker in self._own:
            worker.kill()
        self._own.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


class DaskWorkers:
    """The workers of a Dask scheduler. They need this program at the same version, and the checkout and the work folder at the same paths.

    Dask replaces a worker that dies and gives its task to another, three times.
    """

    def __init__(self, address: str, timeout_s: float) -> None:
        """Raises StageError (infrastructure) when the scheduler does not answer or has no workers."""
        from distributed import Client

        try:
            self._client = Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
            self._client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            message = f"no Dask scheduler with workers answers at {address}: {error}"
            raise StageError(FailureClass.INFRASTRUCTURE, message, "start `dask scheduler` and `dask worker`, or unset MMFS_DASK") from None
        self._executor = self._client.get_executor(pure=False)
        self._timeout_s = timeout_s

    @property
    def workers(self) -> int:
        """Threads of all workers that are there now."""
        return max(1, sum(self._client.nthreads().values()))

    def submit(self, task: Task) -> Future[Any]:
        """An attempt on a worker, within the time limit."""
        future: Future[Any] = self._executor.submit(attempt, task, self._timeout_s)
        return future

    def renew(self) -> None:
        """Dask does that itself."""

    def end(self) -> None:
        """Take back what was submitted and let go of the scheduler."""
        self._executor.shutdown(wait=False)
        self._client.close()


@contextmanager
def open_crew(workers: int, dask: str | None, timeout_s: float, tell: Tell) -> Iterator[Crew]:
    """The crew that is asked for: Dask's where there is an address, else `workers` processes, this process for 0."""
    if dask is None and workers == 0:
        yield Here(tell)
        return
    crew = DaskWorkers(dask, timeout_s) if dask is not None else Processes(workers, timeout_s)
    try:
        yield crew
    finally:
        crew.end()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _begin_worker() -> None:
    """A worker waits for tasks on a pipe that it holds open itself: only the sentinel of its parent tells it that nobody will ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
