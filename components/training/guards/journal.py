"""What was done to a training besides its steps: one line for each action of a guard, a controller or a restart."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.run.events import complete_lines

JOURNAL_FILE = "events.jsonl"
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One action. `step` is the last optimizer step that was complete; `values` say what was seen and done."""

    kind: str
    step: int
    time_ms: int
    values: Mapping[str, Any]

    @property
    def figures(self) -> dict[str, float]:
        """The values that are numbers."""
        return {name: float(value) for name, value in self.values.items() if isinstance(value, int | float) and not isinstance(value, bool)}


class Journal:
    """Appends to the journal of a work folder; rank 0 and the supervisor may both hold one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, kind: str, step: int, **values: Any) -> None:
        """One action, in one write. `values` must be JSON. Half a line that a killed writer left is ended first."""
        record = {"version": VERSION, "time_ms": time.time_ns() // 1_000_000, "kind": kind, "step": step, "values": values}
        line = json.dumps(record).encode() + b"\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" + line if torn else line)
        finally:
            os.close(descriptor)


def read_journal(path: Path, offset: int = 0) -> tuple[list[Entry], int]:
    """The entries from a byte offset on, and where to go on reading. A torn line is left out, and so is one of a newer version."""
    lines, after = complete_lines(path, offset)
    return [entry for line in lines if (entry := _parse(line)) is not None], after


def _parse(line: bytes) -> Entry | None:
    try:
        record = json.loads(line)
        if record["version"] > VERSION:
            return None
        return Entry(str(record["kind"]), int(record["step"]), int(record["time_ms"]), dict(record["values"]))
    except (ValueError, KeyError, TypeError):
        return None
