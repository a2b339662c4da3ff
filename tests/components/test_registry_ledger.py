"""The ledger decides: one winner per entry, an unbroken chain, and a fold that says who is champion."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.registry.ledger import Entry, Kind, Ledger, LedgerError, Proposal, Standing, standing
from components.registry.store import FolderStore, ObjectStore, open_store

MODEL = "mmfs-vqa"


def proposal(kind: Kind, version: int) -> Proposal:
    return Proposal(
        kind=kind, version=version, digest=f"digest{version}", run_id="run", reasons=("because",), by="gate", evidence={"p": 0.01}
    )


def write(ledger: Ledger, *steps: tuple[Kind, int]) -> None:
    for kind, version in steps:
        assert ledger.append(MODEL, ledger.entries(MODEL), proposal(kind, version)) is not None


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(FolderStore(tmp_path / "ledger"))


def test_entries_come_back_in_order_and_chained(ledger: Ledger) -> None:
    write(ledger, ("promoted", 1), ("rejected", 2), ("promoted", 3))
    entries = ledger.entries(MODEL)
    assert [(entry.number, entry.kind, entry.version) for entry in entries] == [(1, "promoted", 1), (2, "rejected", 2), (3, "promoted", 3)]
    assert [entry.previous_sha256 for entry in entries] == ["", entries[0].sha256(), entries[1].sha256()]
    assert ledger.models() == [MODEL]


def test_the_second_writer_of_a_number_loses_and_changes_nothing(ledger: Ledger) -> None:
    before = ledger.entries(MODEL)
    assert ledger.append(MODEL, before, proposal("promoted", 1)) is not None
    assert ledger.append(MODEL, before, proposal("promoted", 2)) is None
    assert standing(ledger.entries(MODEL)).champion == 1


def _race(folder: str, version: int, barrier: Any, winners: Any) -> None:
    ledger = Ledger(FolderStore(Path(folder)))
    barrier.wait()
    if ledger.append(MODEL, [], proposal("promoted", version)) is not None:
        winners.put(version)


def test_of_many_processes_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, winners = context.Barrier(8), context.Queue()
    racers = [context.Process(target=_race, args=(str(tmp_path), version, barrier, winners)) for version in range(1, 9)]
    for racer in racers:
        racer.start()
    winner = winners.get(timeout=60)
    for racer in racers:
        racer.join()
    assert winners.empty()
    assert standing(Ledger(FolderStore(tmp_path)).entries(MODEL)).champion == winner
    assert [path.name for path in (tmp_path / MODEL).iterdir()] == ["1.json"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_changed_entry_is_named(ledger: Ledger, tmp_path: Path, number: int) -> None:
    write(ledger, ("promoted", 1), ("promoted", 2), ("promoted", 3))
    path = tmp_path / "ledger" / MODEL / f"{number}.json"
    path.write_text(path.read_text().replace(f'"version": {number}', '"version": 9'))
    with pytest.raises(LedgerError, match=rf"{MODEL}/{number}.json was changed"):
        ledger.entries(MODEL)


def test_a_replaced_entry_breaks_the_chain(ledger: Ledger, tmp_path: Path) -> None:
    write(ledger, ("promoted", 1), ("promoted", 2))
    path = tmp_path / "ledger" / MODEL / "1.json"
    entry = Entry.model_validate(json.loads(path.read_text())["entry"]).model_copy(update={"version": 7})
    path.write_bytes(entry.stored())
    with pytest.raises(LedgerError, match=r"2\.json does not continue the chain"):
        ledger.entries(MODEL)


def test_a_missing_entry_is_named(ledger: Ledger, tmp_path: Path) -> None:
    write(ledger, ("promoted", 1), ("promoted", 2), ("promoted", 3))
    (tmp_path / "ledger" / MODEL / "2.json").unlink()
    with pytest.raises(LedgerError, match=r"2\.json is missing"):
        ledger.entries(MODEL)


def test_a_newer_schema_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    write(ledger, ("promoted", 1))
    path = tmp_path / "ledger" / MODEL / "1.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(LedgerError, match="schema 2, this program reads up to 1"):
        ledger.entries(MODEL)


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"entry": {}}', b"\xff"])
def test_junk_is_named_as_unreadable(ledger: Ledger, tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "ledger" / MODEL).mkdir(parents=True)
    (tmp_path / "ledger" / MODEL / "1.json").write_bytes(junk)
    with pytest.raises(LedgerError, match=r"1\.json is unreadable"):
        ledger.entries(MODEL)


def test_rollback_goes_back_one_reign_and_withdraws(ledger: Ledger) -> None:
    write(ledger, ("promoted", 1), ("promoted", 2), ("promoted", 3), ("rolled back", 3))
    now = standing(ledger.entries(MODEL))
    assert now == Standing(reign=(1, 2), withdrawn=frozenset({3}))
    assert now.aliases == {"champion": 2, "previous": 1}


def test_a_rejected_version_is_challenger_until_it_is_promoted(ledger: Ledger) -> None:
    write(ledger, ("promoted", 1), ("rejected", 2))
    assert standing(ledger.entries(MODEL)).aliases == {"champion": 1, "challenger": 2}
    write(ledger, ("promoted", 2))
    assert standing(ledger.entries(MODEL)).aliases == {"champion": 2, "previous": 1}


def test_a_version_promoted_again_reigns_once(ledger: Ledger) -> None:
    write(ledger, ("promoted", 1), ("promoted", 2), ("promoted", 1), ("promoted", 1))
    assert standing(ledger.entries(MODEL)).reign == (2, 1)
    write(ledger, ("rolled back", 1))
    assert standing(ledger.entries(MODEL)) == Standing(reign=(2,), withdrawn=frozenset({1}))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["promoted", "rejected", "rolled back"]), st.integers(1, 5)), max_size=12))
def test_any_history_reads_back_and_its_champion_was_promoted(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Kind, int]]
) -> None:
    ledger = Ledger(FolderStore(tmp_path_factory.mktemp("ledger")))
    for kind, version in steps:
        before = ledger.entries(MODEL)
        champion = standing(before).champion
        if kind == "rolled back" and champion is None:
            continue
        ledger.append(MODEL, before, proposal(kind, champion if kind == "rolled back" and champion else version))
    entries = ledger.entries(MODEL)
    now = standing(entries)
    assert now.champion is None or any(entry.kind == "promoted" and entry.version == now.champion for entry in entries)
    assert now.champion not in now.withdrawn


class _Bucket(BaseHTTPRequestHandler):
    """The three S3 requests that the ledger makes, with the conditional PUT of the real service."""

    objects: dict[str, bytes]

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["If-None-Match"] == "*"
        known = self.path in self.objects
        self.objects.setdefault(self.path, data)
        self._answer(412 if known else 200, b"<Error><Code>PreconditionFailed</Code></Error>" if known else b"")

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if "list-type=2" in query:
            rows = "".join(f"<Contents><Key>{name.removeprefix('/bucket/')}</Key></Contents>" for name in sorted(self.objects))
            body = f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rows}<IsTruncated>false</IsTruncated></ListBucketResult>'
            self._answer(200, body.encode())
        elif path in self.objects:
            self._answer(200, self.objects[path])
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bucket", (_Bucket,), {"objects": {}}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield open_store("s3://bucket/ledger", endpoint=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_bucket_keeps_the_same_ledger(bucket: ObjectStore) -> None:
    ledger = Ledger(bucket)
    assert ledger.entries(MODEL) == []
    write(ledger, ("promoted", 1), ("promoted", 2))
    assert ledger.append(MODEL, ledger.entries(MODEL)[:1], proposal("promoted", 9)) is None
    assert standing(ledger.entries(MODEL)).reign == (1, 2)
    assert ledger.models() == [MODEL]


def test_an_unknown_address_is_refused() -> None:
    with pytest.raises(ValueError, match="give a folder or s3://bucket/prefix"):
        open_store("ftp://somewhere")
