"""Carries what the ranks leave on disk to MLflow and to the flow: metric points, and the journal's entries."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from components.run.events import EventWriter
from components.tracking.spool import Point, read_points
from components.tracking.stage_run import StageRun
from components.training.guards.journal import Entry, read_journal
from components.training.telemetry.goodput import GOODPUT, Goodput, began_ms

ARTIFACT_EVERY_S = 30.0


class Forwarder:
    """Call `forward` now and then and `close` at the end. Begins at the start of both files: what MLflow knows it drops.

    An entry of the journal becomes an event of the stage, a point `events/KIND/NAME` for each value that is a number, and the tags
    `mmfs.events.KIND` (how many) and `mmfs.last_event`; the journal itself is kept as the artifact events.jsonl.
    """

    def __init__(
        self,
        points: Path,
        journal: Path,
        steps: int,
        tracking: StageRun,
        events: EventWriter,
        clock: Callable[[], float] = time.monotonic,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        """`look` is called with each `forward`."""
        self._points, self._journal, self._steps = points, journal, steps
        self._tracking, self._events, self._clock = tracking, events, clock
        self._began_ms = began_ms(points.parent)
        self._goodput = Goodput(self._began_ms)
        self._told_points = self._told_entries = 0
        self._look = look
        self._counts: Counter[str] = Counter()
        self._unkept = False
        self._kept_at = -ARTIFACT_EVERY_S

    def forward(self) -> None:
        """Everything that is new."""
        self._look()
        points, self._told_points = read_points(self._points, self._told_points)
        if points:
            if (share := self._goodput.note(points)) is not None:
                points[-1]["metrics"][GOODPUT] = share
            self._tracking.log_metrics(points)
            self._events.progress(points[-1]["step"], self._steps, "steps", latest(points))
        entries, self._told_entries = read_journal(self._journal, self._told_entries)
        for entry in entries:
            self._tell(entry)
        if entries:
            counts = {f"mmfs.events.{kind}": count for kind, count in self._counts.items()}
            self._tracking.set_tags(counts | {"mmfs.last_event": f"{entries[-1].kind} at step {entries[-1].step}"})
        self._unkept = self._unkept or bool(entries)
        if self._clock() - self._kept_at >= ARTIFACT_EVERY_S:
            self._keep()

    def again(self) -> None:
        """The points file was rewritten: read it from its start."""
        self._told_points = 0
        self._goodput = Goodput(self._began_ms)

    def close(self) -> None:
        """The rest, and the journal as it is at the end."""
        self.forward()
        self._keep()

    def _tell(self, entry: Entry) -> None:
        self._counts[entry.kind] += 1
        self._events.action(entry.kind, entry.step, entry.values)
        if figures := entry.figures:
            metrics = {f"events/{entry.kind}/{name}": value for name, value in figures.items()}
            self._tracking.log_event(Point(step=entry.step, time_ms=entry.time_ms, metrics=metrics))

    def _keep(self) -> None:
        if self._unkept:
            self._tracking.log_artifact(self._journal)
            self._unkept, self._kept_at = False, self._clock()


def latest(points: Sequence[Point]) -> dict[str, float]:
    """The last value of each name, the losses first: of names, people are shown the first few."""
    found: dict[str, float] = {}
    for point in sorted(points, key=lambda one: ("loss" not in one["metrics"], one["step"])):
        found |= point["metrics"]
    return found
