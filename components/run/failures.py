"""Why a stage fails: one enum for events, exit codes, Prefect states and MLflow tags."""

from __future__ import annotations

import errno
from enum import StrEnum

from components.params import ParamsError


class Restart(StrEnum):
    """What the launcher may do about a failure."""

    FREE = "free"
    BUDGETED = "budgeted"
    ROLL_BACK = "roll_back"
    NEVER = "never"


class FailureClass(StrEnum):
    """The failure taxonomy; each class has one exit code and one restart policy."""

    PREEMPTED = "preempted"
    INFRASTRUCTURE = "infrastructure"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_CONFIG = "bad_config"
    BAD_DATA = "bad_data"
    NON_FINITE = "non_finite"
    SPIKE = "spike"
    BUG = "bug"

    @property
    def exit_code(self) -> int:
        """What a stage exits with (sysexits.h where it has a word for it)."""
        return _EXIT_CODES[self]

    @property
    def restart(self) -> Restart:
        """Whether the same command may be started again, and at whose cost."""
        return _RESTARTS.get(self, Restart.NEVER)


_EXIT_CODES = {
    FailureClass.BAD_DATA: 65,
    FailureClass.INFRASTRUCTURE: 69,
    FailureClass.BUG: 70,
    FailureClass.OUT_OF_MEMORY: 71,
    FailureClass.PREEMPTED: 75,
    FailureClass.BAD_CONFIG: 78,
    FailureClass.NON_FINITE: 79,
    FailureClass.SPIKE: 80,
}
_RESTARTS = {
    FailureClass.PREEMPTED: Restart.FREE,
    FailureClass.INFRASTRUCTURE: Restart.BUDGETED,
    FailureClass.NON_FINITE: Restart.ROLL_BACK,
    FailureClass.SPIKE: Restart.ROLL_BACK,
}
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}


class StageError(Exception):
    """A stage cannot go on: what happened, in which class, and how the user mends it."""

    def __init__(self, failure: FailureClass, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.fix = fix

    def line(self) -> str:
        """The one line shown to the user."""
        return f"{self.failure}: {self.message}" + (f" — {self.fix}" if self.fix else "")


def from_exit_code(code: int) -> FailureClass:
    """The class behind a child's exit status; a negative code is the signal that ended it."""
    for failure, known in _EXIT_CODES.items():
        if code == known:
            return failure
    if code in (-15, 143, -2, 130):
        return FailureClass.PREEMPTED
    if code in (-9, 137):
        return FailureClass.OUT_OF_MEMORY
    return FailureClass.BUG


def full_disk(message: str) -> StageError:
    """The failure of whatever met a full disk."""
    return StageError(FailureClass.INFRASTRUCTURE, message, "free some space and run the same command to go on")


def explain(error: BaseException) -> StageError:
    """Turn any exception into a StageError; what nobody foresaw is a bug."""
    if isinstance(error, StageError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return StageError(FailureClass.PREEMPTED, "interrupted", "run the same command to go on")
    if isinstance(error, ParamsError):
        return StageError(FailureClass.BAD_CONFIG, str(error).replace("\n", "; "))
    if isinstance(error, MemoryError):
        return StageError(FailureClass.OUT_OF_MEMORY, "out of memory", "lower rows_per_step or batch_documents, or close other programs")
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        where = f" while writing {error.filename}" if error.filename else ""
        return full_disk(f"the disk is full{where}")
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return StageError(FailureClass.OUT_OF_MEMORY, "no memory left", "close other programs and run the same command to go on")
    if isinstance(error, PermissionError | ConnectionError | TimeoutError):
        return StageError(FailureClass.INFRASTRUCTURE, str(error) or type(error).__name__)
    return StageError(FailureClass.BUG, f"{type(error).__name__}: {error}", "please report this with the log of the stage")
