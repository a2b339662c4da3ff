"""Tracking records on disk first: one JSONL file per MLflow run, replayed in order, as often as it takes.

A stage writes; a sender, in the same process or in the flow's, reads. Every record may be sent twice without harm: a metric
point's time is fixed when it is spooled (MLflow stores equal points once), parameters, tags, inputs and files overwrite themselves.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from components.run.events import complete_lines
from components.run.filetree import link_tree, write_whole


class Point(TypedDict):
    """Metric values of one step; `time_ms` is the time they were measured.

    `each_step`: values of the steps up to this one, one after the other, the last of them this step's.
    """

    step: int
    time_ms: int
    metrics: dict[str, float]
    each_step: NotRequired[dict[str, list[float]]]


@dataclass(frozen=True)
class State:
    """Bytes of the records that have arrived, the MLflow run they belong to, and why nothing arrives at the moment."""

    sent: int
    run_id: str | None
    error: str | None


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def append_points(path: Path, points: Sequence[Point]) -> None:
    """Append metric points, one line each, in one write. What a rank program uses."""
    _append(path, points)


def read_points(path: Path, offset: int = 0) -> tuple[list[Point], int]:
    """Complete points from a byte offset on, and where to go on reading."""
    return _read(path, offset)


def unfolded(points: Sequence[Point]) -> list[Point]:
    """A point for each step that has values; those of `each_step` are taken to be of the time of their point."""
    found: list[Point] = []
    for point in points:
        before: dict[int, dict[str, float]] = {}
        for name, values in point.get("each_step", {}).items():
            for number, value in enumerate(values[:-1]):
                before.setdefault(point["step"] - len(values) + 1 + number, {})[name] = value
        found += [Point(step=step, time_ms=point["time_ms"], metrics=before[step]) for step in sorted(before)]
        found.append(Point(step=point["step"], time_ms=point["time_ms"], metrics=point["metrics"]))
    return found


def last_step(points: Sequence[Point], name: str) -> int:
    """The last step that has a value of this name; 0 where none has."""
    return max((point["step"] for point in points if name in point["metrics"]), default=0)


class SpoolWriter:
    """The stage's side: `records.jsonl` and copies of files. One writer at a time; the stage's lease sees to that."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._records = folder / "records.jsonl"
        self._lock = threading.Lock()
        self._last_step: dict[str, int] = {}
        self._rewound: set[str] = set()
        self._cut_torn_line()
        records = _read(self._records, 0)[0]
        self.is_new = not records
        for record in records:
            self._note(record)

    def add(self, op: str, **values: Any) -> int:
        """Spool one record; it is on disk when this returns the position after it."""
        with self._lock:
            return _append(self._records, [{"op": op, "time_ms": now_ms(), **values}])

    def add_points(self, points: Sequence[Point]) -> None:
        """Spool metric points, without those that a resumed stage repeats: at or before the last step spooled under their name."""
        with self._lock:
            fresh = []
            for point in unfolded(points):
                values = {name: value for name, value in point["metrics"].items() if point["step"] > self._last_step.get(name, -1)}
                if values:
                    record = {"op": "point", "time_ms": point["time_ms"], "step": point["step"], "metrics": values}
                    self._note(record)
                    fresh.append(record)
            _append(self._records, fresh)

    def add_event(self, point: Point) -> None:
        """Spool a point as it is: several of a step are several events, and an equal one that was sent before is stored once."""
        with self._lock:
            _append(self._records, [{"op": "point", **point}])

    def rewind(self, step: int, mark: str) -> None:
        """Take points after a step again, which was gone back to. What was sent stays where it was sent; the same mark counts once."""
        with self._lock:
            if mark not in self._rewound:
                record = {"op": "rewind", "time_ms": now_ms(), "step": step, "mark": mark}
                self._note(record)
                _append(self._records, [record])

    def add_summary(self, metrics: Mapping[str, float]) -> None:
        """Spool final values, each at the last step of its name, so that the tracker shows them as the latest."""
        for name, value in metrics.items():
            self.add("point", step=self._last_step.get(name, 0), metrics={name: value})

    def add_file(self, path: Path, folder: str) -> None:
        """Spool a file or folder as it is now."""
        kept = self._slot() / path.name
        if path.is_dir():
            shutil.copytree(path, kept)
        else:
            shutil.copyfile(path, kept)
        self.add("file", path=str(kept.relative_to(self.folder)), folder=folder)

    def add_model(self, folder: Path, weights: Mapping[str, Any]) -> int:
        """Spool a model's folder, whose files never change, by links; the position after the record."""
        kept = self._slot() / folder.name
        link_tree(folder, kept)
        return self.add("model", path=str(kept.relative_to(self.folder)), weights=dict(weights))

    def _slot(self) -> Path:
        slot = self.folder / "files" / uuid.uuid4().hex
        slot.mkdir(parents=True)
        return slot

    def _note(self, record: Mapping[str, Any]) -> None:
        if record["op"] == "point":
            for name in record["metrics"]:
                self._last_step[name] = max(record["step"], self._last_step.get(name, -1))
        elif record["op"] == "rewind":
            self._rewound.add(record["mark"])
            self._last_step = {name: min(step, record["step"]) for name, step in self._last_step.items()}

    def _cut_torn_line(self) -> None:
        """A process killed while it wrote leaves half a line; the next record must not be glued to it."""
        if self._records.exists():
            end = _read(self._records, 0)[1]
            if end != self._records.stat().st_size:
                os.truncate(self._records, end)


class SpoolReader:
    """The sender's side: what is unsent, and `state.json` about what arrived. BlockingIOError when another sender has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = (folder / "lock").open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            raise
        state = read_state(folder)
        self.sent, self.run_id = state.sent, state.run_id

    @property
    def status(self) -> str | None:
        """How the run was closed; None while it is not."""
        records, _ = _read(self.folder / "records.jsonl", 0)
        return records[-1]["status"] if records and records[-1]["op"] == "close" else None

    def header(self) -> dict[str, Any]:
        """The record that says which run this is."""
        header: dict[str, Any] = _read(self.folder / "records.jsonl", 0)[0][0]
        return header

    def unsent(self) -> tuple[list[dict[str, Any]], int]:
        """Records that have not arrived yet, and the position after them."""
        return _read(self.folder / "records.jsonl", self.sent)

    def mark(self, sent: int) -> None:
        """Everything before this position has arrived."""
        self.sent = sent
        self._write_state()

    def report(self, error: str) -> None:
        """Say why nothing arrives at the moment."""
        self._write_state(error)

    def name_run(self, run_id: str) -> None:
        """Remember which MLflow run the records belong to."""
        self.run_id = run_id
        self._write_state()

    def close(self) -> None:
        """Let another sender have it; a finished and sent spool is removed."""
        if self.folder.is_dir() and self.status == "FINISHED" and not self.unsent()[0]:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._held.close()

    def _write_state(self, error: str | None = None) -> None:
        write_whole(self.folder / "state.json", json.dumps(asdict(State(self.sent, self.run_id, error))))


def read_state(folder: Path) -> State:
    """What the sender of a spool last said."""
    try:
        return State(**json.loads((folder / "state.json").read_text()))
    except FileNotFoundError:
        return State(0, None, None)


def _append(path: Path, records: Sequence[Mapping[str, Any]]) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, "".join(json.dumps(record) + "\n" for record in records).encode())
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _read(path: Path, offset: int) -> tuple[list[Any], int]:
    lines, after = complete_lines(path, offset)
    return [json.loads(line) for line in lines], after
