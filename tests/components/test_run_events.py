from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import pytest

from components.data.documents import CorpusError
from components.params import ParamsError
from components.registry.ledger import LedgerError
from components.run.events import EventsError, EventWriter, read_events, tail_events
from components.run.failures import FailureClass, Restart, StageError, explain, from_exit_code


def test_events_come_back_in_order(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "deep" / "events.jsonl")
    writer.started("prepare", "k")
    writer.progress(1, 2, "documents", {"loss": 0.5})
    writer.finished({"documents": 2})
    names = [event.name for event in read_events(tmp_path / "deep" / "events.jsonl")]
    assert names == ["started", "progress", "finished"]
    assert read_events(tmp_path / "deep" / "events.jsonl")[1].values["metrics"] == {"loss": 0.5}


def test_a_writer_without_a_path_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    EventWriter(None).started("prepare", "k")
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_left_for_the_next_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventWriter(path).started("prepare", "k")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:10])
    assert len(read_events(path)) == 1


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"schema": 2, "time_ms": 0, "event": "started"}) + "\n")
    with pytest.raises(EventsError, match="update mmfs"):
        read_events(path)


def test_tail_yields_what_is_written_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    done = threading.Event()

    def write() -> None:
        writer = EventWriter(path)
        for step in range(20):
            writer.progress(step, 20)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    steps = [event.values["done"] for event in tail_events(path, done.is_set, interval_s=0.001)]
    thread.join()
    assert steps == list(range(20))


def test_exit_codes_name_their_class() -> None:
    assert {from_exit_code(failure.exit_code) for failure in FailureClass} == set(FailureClass)
    assert from_exit_code(-15) is FailureClass.PREEMPTED
    assert FailureClass.PREEMPTED.restart is Restart.FREE
    assert FailureClass.BAD_CONFIG.restart is Restart.NEVER


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "outputs/x"), FailureClass.INFRASTRUCTURE),
        (MemoryError(), FailureClass.OUT_OF_MEMORY),
        (KeyboardInterrupt(), FailureClass.PREEMPTED),
        (ConnectionRefusedError("refused"), FailureClass.INFRASTRUCTURE),
        (KeyError("x"), FailureClass.BUG),
        (StageError(FailureClass.SPIKE, "loss 9"), FailureClass.SPIKE),
        (ParamsError("params.yaml: seed: wrong"), FailureClass.BAD_CONFIG),
        (CorpusError("shard a.tar is damaged"), FailureClass.BAD_DATA),
        (LedgerError("entry 3 is missing"), FailureClass.INFRASTRUCTURE),
    ],
)
def test_errors_are_classed(error: BaseException, failure: FailureClass) -> None:
    assert explain(error).failure is failure
    assert "\n" not in explain(error).line()
