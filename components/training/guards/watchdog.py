"""Notices ranks that have stopped without ending: they beat, the supervisor listens. No clock of the wall is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PULSE_FOLDER = "pulse"
_WIDTH = 64
_LONGEST_GAP_S = 5.0


def pulse_file(work: Path, rank: int) -> Path:
    """Where a rank beats."""
    return work / PULSE_FOLDER / f"rank-{rank}"


class Pulse:
    """A rank's side: a counter in a file, with where the rank is. One write of 64 bytes, to no disk's knowledge."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        self._count = 0

    def beat(self, step: int, phase: str) -> None:
        """The rank is alive and begins `phase` of an optimizer step (counted from 1)."""
        self._count += 1
        os.pwrite(self._file, f"{self._count} {step} {phase}".encode()[: _WIDTH - 1].ljust(_WIDTH - 1) + b"\n", 0)


@dataclass(frozen=True)
class Beat:
    """What a rank last said of itself; a count of 0 before it said anything."""

    count: int = 0
    step: int = 0
    phase: str = "starting"

    @classmethod
    def read(cls, path: Path) -> Beat:
        """The last beat in a file."""
        try:
            count, step, phase = path.read_text(encoding="utf-8").split(maxsplit=2)
            return cls(int(count), int(step), phase.strip())
        except (OSError, ValueError):
            return cls()


class Watchdog:
    """The supervisor's side. Ranks hang when none of their counters has moved for `hang_s` of time that this process lived through.

    A pause of the whole machine or of this process (suspend, SIGSTOP) counts as a few seconds, for the ranks were paused as well.
    """

    def __init__(self, paths: Sequence[Path], hang_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`hang_s` 0 never calls them hung."""
        self._paths, self._hang_s, self._clock = tuple(paths), hang_s, clock
        self._looked = clock()
        self._silent_s = 0.0
        self.beats = tuple(Beat() for _ in self._paths)

    def hung(self) -> bool:
        """Look once. Call this more often than every five seconds."""
        now = self._clock()
        gap, self._looked = now - self._looked, now
        beats = tuple(map(Beat.read, self._paths))
        if beats != self.beats:
            self.beats, self._silent_s = beats, 0.0
        else:
            self._silent_s += min(gap, _LONGEST_GAP_S)
        return 0 < self._hang_s <= self._silent_s

    def told(self) -> str:
        """Where the ranks were, in words."""
        return ", ".join(f"rank {rank} in {beat.phase} of step {beat.step}" for rank, beat in enumerate(self.beats))


def clear_pulses(work: Path, ranks: int) -> list[Path]:
    """The files of ranks about to be started, without what an earlier attempt left there."""
    paths = [pulse_file(work, rank) for rank in range(ranks)]
    for path in paths:
        path.unlink(missing_ok=True)
    return paths
