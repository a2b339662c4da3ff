"""What a stage tells the flow: one append-only JSONL file, named by $MMFS_EVENTS."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.run.failures import FailureClass

SCHEMA = 1
EventName = Literal["started", "waiting", "progress", "action", "artifact", "failed", "finished"]


class EventsError(ValueError):
    """An event file was written by a newer version of mmfs, or is none."""


@dataclass(frozen=True)
class Event:
    """One line of the file; `values` holds what the event's writer method takes."""

    name: str
    time_ms: int
    values: Mapping[str, Any]


class EventWriter:
    """Appends events, each in one write; without a path it says nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def started(self, stage: str, key: str) -> None:
        """The body of the stage runs (a cache hit never says so)."""
        self._write("started", stage=stage, key=key)

    def waiting(self, message: str) -> None:
        """Another process holds what this stage needs."""
        self._write("waiting", message=message)

    def progress(self, done: float, total: float, unit: str = "steps", metrics: Mapping[str, float] | None = None) -> None:
        """How far the stage is, in `unit`, with its latest figures."""
        self._write("progress", done=done, total=total, unit=unit, metrics=dict(metrics or {}))

    def action(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """A guard, a controller or a restart did something; `values` say why and what."""
        self._write("action", kind=kind, step=step, values=dict(values))

    def artifact(self, path: Path | str, kind: Literal["image", "table", "markdown", "link", "file"] = "image", caption: str = "") -> None:
        """Something worth showing while the run goes on."""
        self._write("artifact", path=str(path), kind=kind, caption=caption)

    def failed(self, failure: FailureClass, message: str, fix: str = "") -> None:
        """The stage ends without a result; the `class` decides on a restart."""
        self._write("failed", **{"class": str(failure), "message": message, "fix": fix})

    def finished(self, result: Mapping[str, Any]) -> None:
        """The stage's outs are in place."""
        self._write("finished", result=dict(result))

    def _write(self, name: EventName, **values: Any) -> None:
        if self.path is None:
            return
        line = json.dumps({"schema": SCHEMA, "time_ms": time.time_ns() // 1_000_000, "event": name, **values}) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def read_events(path: Path) -> list[Event]:
    """All complete events of a file; none where it is absent. Raises EventsError for a newer schema."""
    return _read_from(path, 0)[0]


def tail_events(path: Path, ended: Callable[[], bool], interval_s: float = 0.2, offset: int = 0) -> Iterator[Event]:
    """Events from a byte offset on, as they are written, until `ended()` says that nobody writes any more."""
    while True:
        last_round = ended()
        events, offset = _read_from(path, offset)
        yield from events
        if last_round:
            return
        if not events:
            time.sleep(interval_s)


def complete_lines(path: Path, offset: int) -> tuple[list[bytes], int]:
    """The lines from a byte offset on that are written to their end, blank ones left out, and the offset after them."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    complete = data[: data.rfind(b"\n") + 1]
    return [line for line in complete.splitlines() if line.strip()], offset + len(complete)


def _read_from(path: Path, offset: int) -> tuple[list[Event], int]:
    lines, after = complete_lines(path, offset)
    return [_parse(line, path) for line in lines], after


def _parse(line: bytes, path: Path) -> Event:
    try:
        values = json.loads(line)
        schema, time_ms, name = values.pop("schema"), values.pop("time_ms"), values.pop("event")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise EventsError(f"{path}: not an event: {line[:80]!r}") from None
    if schema > SCHEMA:
        raise EventsError(f"{path}: written with event schema {schema}, this version reads up to {SCHEMA}; update mmfs")
    return Event(name, time_ms, values)
