"""A background process that outlives the command that started it, found again by its record."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from components.run.filetree import write_whole

RECORD_VERSION = 1
MARK = "MMFS_SERVICE"  # inherited by everything a service starts, in whatever session it ends up


@dataclass(frozen=True)
class Record:
    """What is needed to find a background process again, and nothing else that has its process id since."""

    name: str
    pid: int
    created: float  # seconds since the epoch, as the kernel tells it: a reused process id has another one
    mark: str
    url: str | None
    log: str

    def is_alive(self) -> bool:
        """Whether the very process that was started still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def port(self) -> int:
        """The port of its address; 0 where there is none."""
        return urlsplit(self.url or "").port or 0

    def listens(self) -> bool:
        """Whether a process of this service serves its port; what answers there could be another program."""
        return any(self.port() in _ports_of(process) for process in self.members())

    def members(self) -> list[psutil.Process]:
        """The living processes of this service: its own and all that descend from it, also those that left its session."""
        return [process for process in psutil.process_iter() if _mark_of(process) == self.mark]


def start(name: str, command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path, url: str | None) -> Record:
    """Start `command` in a session of its own with both streams appended to `log`. Raises OSError."""
    mark = uuid.uuid4().hex
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Record(name, child.pid, psutil.Process(child.pid).create_time(), mark, url, str(log))


def stop(record: Record, grace_s: float = 15.0) -> None:
    """End the process and all its descendants: SIGTERM, the grace, SIGKILL to what is left."""
    left = record.members()
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            _signal(process, number)
        psutil.wait_procs(left, timeout=grace_s)
        left = record.members()
        if not left:
            return


def write_record(record: Record, path: Path) -> None:
    """Write the record in one step."""
    write_whole(path, json.dumps({"version": RECORD_VERSION, **asdict(record)}))


def read_record(path: Path) -> Record | None:
    """The record, or None when there is none or it is unreadable or of another version."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Record(**values) if values.pop("version") == RECORD_VERSION else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK) if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, OSError):
        return None


def _ports_of(process: psutil.Process) -> set[int]:
    try:
        return {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    except (psutil.Error, OSError):
        return set()


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
