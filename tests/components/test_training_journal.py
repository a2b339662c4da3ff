"""Every action of a guard is a line on disk, and reaches MLflow and the flow once."""

from __future__ import annotations

import json
from pathlib import Path

from components.run.events import EventWriter, read_events
from components.tracking.spool import append_points
from components.tracking.stage_run import StageRun, point
from components.training.forward import Forwarder
from components.training.guards.journal import Journal, read_journal


class Tracking(StageRun):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def log_metrics(self, points: object) -> None:
        self.told.append(("points", points))

    def log_event(self, point: object) -> None:
        self.told.append(("event", point))

    def set_tags(self, tags: object) -> None:
        self.told.append(("tags", tags))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self.told.append(("artifact", path.name))

    def all(self, kind: str) -> list[object]:
        return [value for name, value in self.told if name == kind]


def test_entries_come_back_in_order_and_a_torn_line_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_journal(path) == ([], 0)
    Journal(path).add("spike", 12, score=9.5, first=10, note="loss")
    first, offset = read_journal(path)
    assert [(entry.kind, entry.step, entry.values) for entry in first] == [("spike", 12, {"score": 9.5, "first": 10, "note": "loss"})]
    assert first[0].figures == {"score": 9.5, "first": 10.0}
    with path.open("ab") as file:
        file.write(b'{"version": 1, "kind": "torn')
    assert read_journal(path, offset) == ([], offset), "half a line is not there yet"
    Journal(path).add("restart", 12, attempt=1)
    with path.open("ab") as file:
        file.write(json.dumps({"version": 99, "kind": "later", "step": 1, "time_ms": 1, "values": {}}).encode() + b"\n[]\n")
    Journal(path).add("restart", 13, done=True)
    assert [(entry.kind, entry.step) for entry in read_journal(path, offset)[0]] == [("restart", 12), ("restart", 13)]
    assert read_journal(path)[0][2].figures == {}


def test_new_entries_and_points_are_forwarded_once(tmp_path: Path) -> None:
    points, path, now = tmp_path / "points.jsonl", tmp_path / "events.jsonl", [0.0]
    tracking, events = Tracking(), EventWriter(tmp_path / "stage.jsonl")
    forwarder = Forwarder(points, path, 40, tracking, events, lambda: now[0])
    forwarder.forward()
    assert not tracking.told
    append_points(points, [point(5, loss=2.0)])
    Journal(path).add("spike", 5, score=9.5)
    Journal(path).add("rollback", 5, to=0)
    Journal(path).add("rollback", 5, to=0)
    forwarder.forward()
    forwarder.forward()
    told = [(event.name, event.values.get("kind")) for event in read_events(tmp_path / "stage.jsonl")]
    assert told == [("progress", None), ("action", "spike"), ("action", "rollback"), ("action", "rollback")]
    names = [(one["step"], one["metrics"]) for one in tracking.all("event")]  # type: ignore[index]
    assert names == [(5, {"events/spike/score": 9.5}), (5, {"events/rollback/to": 0.0}), (5, {"events/rollback/to": 0.0})]
    assert tracking.all("tags") == [{"mmfs.events.spike": 1, "mmfs.events.rollback": 2, "mmfs.last_event": "rollback at step 5"}]
    assert tracking.all("artifact") == ["events.jsonl"]
    Journal(path).add("restart", 6, attempt=1)
    forwarder.forward()
    assert tracking.all("artifact") == ["events.jsonl"], "not with every line"
    forwarder.close()
    assert tracking.all("artifact") == ["events.jsonl"] * 2
    assert len(tracking.all("points")) == 1
