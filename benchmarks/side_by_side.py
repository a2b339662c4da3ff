"""Programs beside each other in one process: what they compute of the same inputs, and how long each takes, called in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor


class Given(Protocol):
    """The inputs of a case: `leaves` are what gradients are asked of, `gradient` is that of the output."""

    leaves: list[Tensor]
    gradient: Tensor


Inputs = TypeVar("Inputs", bound=Given)


def results(program: Callable[[Inputs], Tensor], given: Inputs) -> list[Tensor]:
    """The output and the gradients of the leaves."""
    output = program(given)
    return [output.detach(), *torch.autograd.grad(output, given.leaves, given.gradient)]


def call(program: Callable[[Inputs], Tensor], given: Inputs, backward: bool) -> None:
    """One call, with its gradients or without."""
    if backward:
        results(program, given)
    else:
        with torch.no_grad():
            program(given)


def seconds(program: Callable[[Inputs], Tensor], given: Inputs, backward: bool) -> float:
    """What one call takes on a processor."""
    started = time.perf_counter()
    call(program, given, backward)
    return time.perf_counter() - started


def in_turn(calls: Sequence[Callable[[], float]], rounds: int) -> list[float]:
    """Median milliseconds of calls that say their seconds, each made once a round; a first round does not count."""
    taken: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for every, once in zip(taken, calls, strict=True):
            found = once()
            if number:
                every.append(found)
    return [statistics.median(every) * 1e3 for every in taken]
