"""How far preparation is and how fast: told to the events file, and now and then to MLflow. Times never reach the outs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from components.data.preparation.attempt import Mark
from components.data.preparation.executors import Crew
from components.data.preparation.part import Part
from components.run.events import EventWriter
from components.tracking.spool import Point
from components.tracking.stage_run import point

TELL_EVERY_S = 1.0
LOG_EVERY_S = 15.0


@dataclass
class Progress:
    """Input shards that are done of `total`, and the speed of those that were prepared now."""

    events: EventWriter
    log: Callable[[Sequence[Point]], None]
    total: int
    done: int = 0
    documents: int = 0
    bytes: int = 0
    _started: float = field(default_factory=time.monotonic)
    _told: float = 0.0
    _logged: float = field(default_factory=time.monotonic)

    def ended(self, part: Part | None) -> None:
        """An input shard is done: prepared, found, or given up (None)."""
        self.done += 1
        if part is not None and not part.found:
            self.documents += part.documents
            self.bytes += part.bytes

    def rates(self, documents: int = 0, size: int = 0) -> dict[str, float]:
        """Documents and megabytes (10⁶ bytes of shards) per second since the beginning; the arguments are what is under way."""
        seconds = max(1e-6, time.monotonic() - self._started)
        return {
            "documents_per_second": round((self.documents + documents) / seconds, 1),
            "megabytes_per_second": round((self.bytes + size) / seconds / 1e6, 3),
        }

    def watch(self, crew: Crew, marks: Sequence[Mark]) -> None:
        """Tell, at most once a second, what is done and under way."""
        now = time.monotonic()
        if now - self._told < TELL_EVERY_S:
            return
        self._told = now
        documents, size = sum(mark.documents for mark in marks), sum(mark.bytes for mark in marks)
        rates = self.rates(documents, size)
        workers = crew.workers
        figures = rates | {"documents_per_second_per_worker": round(rates["documents_per_second"] / workers, 1), "workers": float(workers)}
        self.events.progress(self.done, self.total, "input shards", figures)
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            self.log([point(self.documents + documents, **figures)])
