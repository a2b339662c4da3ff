"""Processes that end when they should: death with the parent, and SIGTERM as an exception."""

from __future__ import annotations

import ctypes
import os
import signal
from types import FrameType

from components.run.failures import FailureClass, StageError

_PR_SET_PDEATHSIG = 1


def die_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the process that started this one ends. Linux only."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def raise_on_termination() -> None:
    """Turn the first SIGTERM or SIGINT into StageError(preempted) in the main thread; later ones wait for the clean-up to end."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise StageError(FailureClass.PREEMPTED, f"stopped by {signal.Signals(number).name}", "run the same command to go on")

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)
