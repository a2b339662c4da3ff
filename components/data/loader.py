"""Work done ahead of its use by processes: results in the order of their numbers, the same for any number of processes."""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from components.run.failures import FailureClass, StageError
from components.run.process import die_with_parent

T = TypeVar("T")
_DIED = re.compile("DataLoader worker .*(killed by signal|exited unexpectedly)")
AHEAD = 2
"""Results that a process has ready or in the making, besides the one in use: what bounds the memory."""


def ahead(work: Callable[[int], T], numbers: Sequence[int], workers: int) -> Iterator[T]:
    """`work(number)` for each number in order, made by `workers` processes ahead, or here and now where it is 0.

    The processes are forked, take turns by number and end with this one or when the iterator is closed; tensors come back through shared
    memory. Raises what `work` raises, when its turn comes; StageError (out_of_memory) when a process was killed.
    """
    if workers == 0:
        yield from map(work, numbers)
        return
    _allow_many_files()
    loader: DataLoader[Any] = DataLoader(
        _Numbered(work),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=_begin,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # it draws a seed: not from this process's random state
    )
    results = iter(loader)
    try:
        while True:
            try:
                result = next(results)
            except StopIteration:
                return
            except RuntimeError as error:
                if _DIED.search(str(error)):
                    fix = "lower loader_workers or rows_per_step, or give the container more memory and a larger /dev/shm"
                    raise StageError(FailureClass.OUT_OF_MEMORY, f"a process that loads data was killed: {error}", fix) from None
                raise
            if isinstance(result, _Failed):
                raise StageError(result.failure, result.message, result.fix)
            yield result
    finally:
        del results  # ends the processes


@dataclass(frozen=True)
class _Failed:
    """A StageError on its way: torch would hand on its text alone."""

    failure: FailureClass
    message: str
    fix: str


class _Numbered(Dataset[Any], Generic[T]):
    def __init__(self, work: Callable[[int], T]) -> None:
        self._work = work

    def __getitem__(self, number: int) -> T | _Failed:
        try:
            return self._work(number)
        except StageError as error:
            return _Failed(error.failure, error.message, error.fix)


def _begin(worker: int) -> None:
    """In a new process: end with the rank, and not by the signals that its group gets, which ask the rank to save first."""
    os.setpgid(0, 0)
    die_with_parent(signal.SIGKILL)


def _as_it_is(result: T) -> T:
    return result


def _allow_many_files() -> None:
    """Every tensor on its way is an open file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
