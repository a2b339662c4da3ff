"""Tracking records on disk first: one JSONL file per MLflow run, replayed in order, as often as it takes.

Every record may be sent twice without harm: a metric point's time is fixed when it is spooled (MLflow stores equal points
once), parameters, tags, inputs and files overwrite themselves.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict


class Point(TypedDict):
    """Metric values of one step; `time_ms` is the time they were measured."""

    step: int
    time_ms: int
    metrics: dict[str, float]


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def append_points(path: Path, points: Sequence[Point]) -> None:
    """Append metric points, one line each, in one write. What a rank program uses."""
    _append(path, points)


def read_points(path: Path, offset: int = 0) -> tuple[list[Point], int]:
    """Complete points from a byte offset on, and where to go on reading."""
    lines, end = _read(path, offset)
    return lines, end


class Spool:
    """The folder of one run's records: `records.jsonl`, `state.json` (what was sent, the run's id) and copies of files.

    One process at a time has it open; with `wait=False` BlockingIOError says that another one does.
    """

    def __init__(self, folder: Path, wait: bool = True) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._held = (folder / "lock").open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._records = folder / "records.jsonl"
        self._state_file = folder / "state.json"
        self._lock = threading.Lock()
        self._last_step: dict[str, int] = {}
        self._cut_torn_line()
        for record in _read(self._records, 0)[0]:
            self._note(record)
        state = self._read_state()
        self.run_id: str | None = state.get("run_id")
        self.sent: int = state.get("sent", 0)

    def add(self, op: str, **values: Any) -> None:
        """Spool one record; it is on disk when this returns."""
        with self._lock:
            _append(self._records, [{"op": op, "time_ms": now_ms(), **values}])

    def add_points(self, points: Sequence[Point]) -> None:
        """Spool metric points, without those that a resumed stage repeats: at or before the last step spooled under their name."""
        with self._lock:
            fresh = []
            for point in points:
                values = {name: value for name, value in point["metrics"].items() if point["step"] > self._last_step.get(name, -1)}
                if values:
                    record = {"op": "point", "time_ms": point["time_ms"], "step": point["step"], "metrics": values}
                    self._note(record)
                    fresh.append(record)
            _append(self._records, fresh)

    def add_summary(self, metrics: Mapping[str, float]) -> None:
        """Spool final values, each at the last step of its name, so that the tracker shows them as the latest."""
        for name, value in metrics.items():
            self.add("point", step=self._last_step.get(name, 0), metrics={name: value})

    def add_file(self, path: Path, folder: str) -> None:
        """Spool a file or folder, kept as it is now."""
        with self._lock:
            number = len(list((self.folder / "files").iterdir())) if (self.folder / "files").is_dir() else 0
        kept = self.folder / "files" / str(number) / path.name
        kept.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, kept)
        else:
            shutil.copyfile(path, kept)
        self.add("file", path=str(kept.relative_to(self.folder)), folder=folder)

    @property
    def status(self) -> str | None:
        """How the run was closed; None while it is not."""
        records = self.all_records()
        return records[-1]["status"] if records and records[-1]["op"] == "close" else None

    def all_records(self) -> list[dict[str, Any]]:
        """Everything spooled so far, sent or not."""
        return _read(self._records, 0)[0]

    def unsent(self) -> tuple[list[dict[str, Any]], int]:
        """Records nobody has sent yet, and the position after them."""
        return _read(self._records, self.sent)

    def mark(self, sent: int) -> None:
        """Everything before this position has arrived."""
        self.sent = sent
        self._write_state()

    def name_run(self, run_id: str) -> None:
        """Remember which MLflow run the records belong to."""
        self.run_id = run_id
        self._write_state()

    def close(self) -> None:
        """Let others open it."""
        self._held.close()

    def remove(self) -> None:
        """Drop it all; only for a finished and sent spool."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._held.close()

    def _note(self, record: Mapping[str, Any]) -> None:
        if record["op"] == "point":
            for name in record["metrics"]:
                self._last_step[name] = max(record["step"], self._last_step.get(name, -1))

    def _cut_torn_line(self) -> None:
        """A process killed while it wrote leaves half a line; the next record must not be glued to it."""
        if self._records.exists():
            end = _read(self._records, 0)[1]
            if end != self._records.stat().st_size:
                os.truncate(self._records, end)

    def _read_state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return state

    def _write_state(self) -> None:
        fresh = self._state_file.with_suffix(".new")
        fresh.write_text(json.dumps({"run_id": self.run_id, "sent": self.sent}))
        fresh.replace(self._state_file)


def _append(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    if not records:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, "".join(json.dumps(record) + "\n" for record in records).encode())
    finally:
        os.close(descriptor)


def _read(path: Path, offset: int) -> tuple[list[Any], int]:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    complete = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in complete.splitlines() if line.strip()], offset + len(complete)
