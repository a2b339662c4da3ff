"""What an exception of a rank means, in the words of the failure taxonomy."""

from __future__ import annotations

import torch

from components.run.failures import FailureClass, StageError, explain
from model.batch import InputError
from model.config import ConfigError
from model.weights import WeightsError

_LOST_PEER = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "TCPStore", "connectFullMesh", "Socket Timeout")
_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "Cannot allocate memory")
_NO_DISK = ("PytorchStreamWriter", "No space left on device")


def diagnose(error: BaseException) -> StageError:
    """The StageError behind any exception of training code."""
    text = str(error)
    if isinstance(error, InputError | WeightsError):
        return StageError(FailureClass.BAD_DATA, text)
    if isinstance(error, ConfigError):
        return StageError(FailureClass.BAD_CONFIG, text)
    if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and _mentions(text, _NO_MEMORY)):
        fix = "lower rows_per_step or row_tokens, raise accumulate (with `auto`: lower rows_per_device), or use a higher zero_stage"
        return StageError(FailureClass.OUT_OF_MEMORY, f"out of memory: {_first_line(text)}", fix)
    if isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and _mentions(text, _LOST_PEER)):
        return StageError(FailureClass.INFRASTRUCTURE, f"lost the other ranks: {_first_line(text)}", "run the same command to go on")
    if isinstance(error, RuntimeError | OSError) and _mentions(text, _NO_DISK):
        fix = "free some disk space and run the same command to go on"
        return StageError(FailureClass.INFRASTRUCTURE, f"a checkpoint could not be written: {_first_line(text)}", fix)
    return explain(error)


def _mentions(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]
