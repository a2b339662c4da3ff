"""Background processes: found again, never confused with another process, stopped whole."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from components.services.ports import PortTaken, choose_port, is_free
from components.services.process import Record, read_record, start, stop, write_record

# a service whose child leaves the session, as Prefect's flow runs do, and which ignores SIGTERM where asked
STUBBORN = """
import signal, subprocess, sys
if "stubborn" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
signal.pause()
"""


def launch(folder: Path, *arguments: str) -> Record:
    log = folder / "service.log"
    record = start("service", [sys.executable, "-c", STUBBORN, *arguments], environment=dict(os.environ), folder=folder, log=log, url=None)
    while "ready" not in log.read_text():
        assert record.is_alive(), log.read_text()
        time.sleep(0.02)
    return record


def test_record_survives_the_file(tmp_path: Path) -> None:
    record = launch(tmp_path)
    try:
        write_record(record, tmp_path / "folder" / "service.json")
        assert read_record(tmp_path / "folder" / "service.json") == record
        assert [file.name for file in (tmp_path / "folder").iterdir()] == ["service.json"]
    finally:
        stop(record)


@pytest.mark.parametrize("arguments", [(), ("stubborn",)])
def test_stop_ends_descendants_in_other_sessions(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    record = launch(tmp_path, *arguments)
    members = record.members()
    assert len({os.getsid(process.pid) for process in members}) == 2
    stop(record, grace_s=0.5)
    assert not record.is_alive()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in members)


def test_stop_finds_orphans_of_a_killed_service(tmp_path: Path) -> None:
    record = launch(tmp_path)
    os.kill(record.pid, signal.SIGKILL)
    os.waitpid(record.pid, 0)
    assert not record.is_alive()
    orphans = record.members()
    assert len(orphans) == 1
    stop(record)
    assert not record.members()


def test_reused_process_id_is_not_the_service() -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        created = psutil.Process(stranger.pid).create_time()
        record = Record("service", stranger.pid, created, "no-such-mark", None, "log")
        assert record.is_alive()
        before = replace(record, created=created - 60)
        assert not before.is_alive()
        stop(before)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', '{"version": 1, "pid": 1}'])
def test_unreadable_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "service.json").write_text(text)
    assert read_record(tmp_path / "service.json") is None
    assert read_record(tmp_path / "absent.json") is None


def test_taken_port_gives_way_to_a_free_one_unless_asked_for() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert not is_free(port)
        chosen = choose_port(port, None)
        assert chosen != port
        assert is_free(chosen)
        with pytest.raises(PortTaken, match=f"port {port} is taken"):
            choose_port(port, port)
    assert choose_port(port, None) == port


SERVER = (
    "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()"
)


def test_a_stranger_on_the_port_is_not_the_service(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(port)]
    record = start("web", command, environment=dict(os.environ), folder=tmp_path, log=tmp_path / "log", url=f"http://127.0.0.1:{port}")
    try:
        while not record.listens():
            assert record.is_alive(), (tmp_path / "log").read_text()
            time.sleep(0.02)
        assert not replace(record, mark="another").listens()
    finally:
        stop(record)
    assert not record.listens()
