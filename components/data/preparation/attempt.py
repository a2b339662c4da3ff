"""One attempt at a task in a worker: marked while it runs, ended when it takes too long, its failure told as a value."""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.data.documents import CorpusError
from components.data.preparation.part import Tell
from components.run.filetree import write_whole

TELL_EVERY_S = 1.0
_FULL = {errno.ENOSPC, errno.EDQUOT}
_turn = threading.Lock()
"""The watchdog is one per process: where a worker has several threads, their tasks take turns."""


@dataclass(frozen=True)
class Task:
    """A function of a value and a Tell, and where the mark of its running lies. `name` is unique among the tasks of a map."""

    name: str
    function: Callable[[Any, Tell], Any]
    argument: Any
    mark: Path


@dataclass(frozen=True)
class Failed:
    """Why an attempt ended without a value. `corpus` and `disk` end the whole map, the rest is tried again."""

    kind: Literal["corpus", "disk", "error"]
    reason: str
    trace: str = ""


@dataclass(frozen=True)
class Mark:
    """What a running attempt says of itself."""

    pid: int
    started: float
    documents: int
    bytes: int


def attempt(task: Task, timeout_s: float) -> Any:
    """The function's value, or how it failed. The process ends itself, with its stacks on stderr, when `timeout_s` are over: also where
    the time is spent in a library that never comes back. `timeout_s` 0 is no limit."""
    with _turn, _watched(timeout_s), _marked(task.mark) as tell:
        return guarded(task, tell)


def guarded(task: Task, tell: Tell) -> Any:
    """The function's value, or how it failed."""
    try:
        return task.function(task.argument, tell)
    except CorpusError as error:
        return Failed("corpus", error.message)
    except OSError as error:
        if error.errno in _FULL:
            return Failed("disk", f"the disk is full{f' while writing {error.filename}' if error.filename else ''}")
        return Failed("error", f"{type(error).__name__}: {error}", traceback.format_exc())
    except Exception as error:  # a reader of hostile files may raise anything
        return Failed("error", f"{type(error).__name__}: {error}", traceback.format_exc())


def read_mark(path: Path) -> Mark | None:
    """The mark of a running attempt, or of one whose process died; None where there is none."""
    try:
        return Mark(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def _watched(timeout_s: float) -> Iterator[None]:
    if timeout_s:
        faulthandler.dump_traceback_later(timeout_s, exit=True)
    try:
        yield
    finally:
        if timeout_s:
            faulthandler.cancel_dump_traceback_later()


@contextmanager
def _marked(path: Path) -> Iterator[Tell]:
    started = told = time.time()

    def write(documents: int, written: int) -> None:
        write_whole(path, json.dumps({"pid": os.getpid(), "started": started, "documents": documents, "bytes": written}))

    def tell(documents: int, written: int) -> None:
        nonlocal told
        if (now := time.time()) - told >= TELL_EVERY_S:
            told = now
            write(documents, written)

    write(0, 0)
    try:
        yield tell
    finally:
        path.unlink(missing_ok=True)
