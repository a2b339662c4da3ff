"""Where the time between two logged steps goes: laps of a training, by name."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

STEP = ("data", "forward", "backward", "optimizer")
"""Laps of a step itself; all others are what happens between steps."""


class Mark(Protocol):
    """A point on a device's own timeline, such as torch.cuda.Event."""

    def query(self) -> bool:
        """Whether the device has come past it."""
        ...

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from here to another one."""
        ...


class Stopwatch:
    """Adds up laps by the monotonic clock of the host: all that work on a CPU needs."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._last = clock()

    def start(self) -> None:
        """What came before is of no lap."""
        self._last = self._clock()

    def lap(self, name: str) -> None:
        """The time since the mark before this one belongs to `name`."""
        now = self._clock()
        self.add(name, now - self._last)
        self._last = now

    def add(self, name: str, seconds: float) -> None:
        """Seconds of a lap that was timed."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by lap since the last `load`."""
        return dict(self._seconds)

    def load(self, seconds: Mapping[str, float]) -> None:
        """Go on from these."""
        self._seconds = dict(seconds)


class DeviceStopwatch(Stopwatch):
    """The same by events of a device that works asynchronously. Nothing waits: laps it has not come past count at a later reading."""

    def __init__(self, mark: Callable[[], Mark]) -> None:
        """`mark` records a new event on the device's stream."""
        super().__init__()
        self._mark = mark
        self._marks: deque[tuple[str, Mark]] = deque()

    def start(self) -> None:
        """See Stopwatch."""
        self._marks.clear()
        self._marks.append(("", self._mark()))

    def lap(self, name: str) -> None:
        """See Stopwatch."""
        self._marks.append((name, self._mark()))

    def seconds(self) -> dict[str, float]:
        """See Stopwatch; only what the device has done."""
        while len(self._marks) > 1 and self._marks[1][1].query():
            _, begin = self._marks.popleft()
            name, end = self._marks[0]
            self.add(name, begin.elapsed_time(end) / 1000)
        return super().seconds()


def stopwatch(device: str) -> Stopwatch:
    """The stopwatch of a device type (`cpu` or `cuda`)."""
    if device == "cpu":
        return Stopwatch()
    import torch

    def mark() -> Mark:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return DeviceStopwatch(mark)


def split(seconds: Mapping[str, float], steps: float) -> dict[str, float]:
    """Seconds per optimizer step: `time/<lap>`, and `time/step` for the laps of a step itself."""
    found = {f"time/{name}": value / steps for name, value in seconds.items()}
    return {"time/step": sum(seconds.get(name, 0.0) for name in STEP) / steps, **found}
