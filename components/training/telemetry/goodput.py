"""Goodput: how much of a stage's time went into steps whose results were kept. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from components.run.filetree import write_whole
from components.tracking.spool import Point, now_ms

BEGAN_FILE = "began"
GOODPUT, STEP_SECONDS, EACH = "goodput", "time/step", "grad_norm"


def began_ms(work: Path) -> int:
    """When the ranks of a work folder were first started, milliseconds since the epoch; now, if they never were, which is written down."""
    path = work / BEGAN_FILE
    try:
        return int(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        write_whole(path, str(now := now_ms()))
        return now


class Goodput:
    """Productive seconds over seconds since the beginning, whoever worked or waited in between.

    A point is written once, whatever is done again after a restart, and one that was rolled back is no more; so the seconds that points
    tell are those of kept steps. Points without them (validation) add nothing.
    """

    def __init__(self, began_ms: int) -> None:
        self._began_ms = began_ms
        self._productive_s = 0.0

    def note(self, points: Iterable[Point]) -> float | None:
        """The share at the time of the last of these further points; None before any time has passed."""
        share = None
        for point in points:
            steps = len(point.get("each_step", {}).get(EACH, ()))
            self._productive_s += point["metrics"].get(STEP_SECONDS, 0.0) * steps
            wall_s = (point["time_ms"] - self._began_ms) / 1000
            if steps and wall_s > 0:
                share = min(1.0, self._productive_s / wall_s)
        return share
