"""Who works in a folder: a record that a dead process cannot keep and a living one cannot lose."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from components.run.filetree import write_whole

LEASE_FILE = "lease.json"
HEARTBEAT_S = 5.0
SILENCE_S = 60.0


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one of the same pid by its start (clock ticks since boot) and the boot."""

    host: str
    boot: str
    pid: int
    start: int
    heartbeat: float

    @classmethod
    def myself(cls) -> Owner:
        return cls(socket.gethostname(), boot_id(), os.getpid(), _process_start(os.getpid()) or 0, time.time())

    def same(self, other: Owner) -> bool:
        return replace(self, heartbeat=0) == replace(other, heartbeat=0)

    def alive(self, here: Owner) -> bool:
        """On this machine the process decides, elsewhere the heartbeat."""
        if self.host == here.host:
            return self.boot == here.boot and _process_start(self.pid) == self.start
        return time.time() - self.heartbeat < SILENCE_S


def owner_of(folder: Path) -> Owner | None:
    """Who holds, or held when it died, the lease of a folder."""
    try:
        return Owner(**json.loads((folder / LEASE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_held(folder: Path) -> bool:
    """Whether somebody living works in a folder."""
    owner = owner_of(folder)
    return owner is not None and owner.alive(Owner.myself())


class Lease:
    """The right to work in `folder`, renewed by a thread until it is released.

    `on_lost` is called from that thread if another machine, which believes this one dead, took it: a run goes on, its stages hold leases of
    their own.
    """

    def __init__(self, folder: Path, on_lost: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._record = folder / LEASE_FILE
        self._on_lost = on_lost
        self._me = Owner.myself()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self, on_wait: Callable[[Owner], None], interval_s: float = 0.5) -> None:
        """Take the lease, waiting for a living owner to end; `on_wait` is told of each owner waited for."""
        told = None
        while (owner := self._take()) is not None:
            if told != owner.pid:
                on_wait(owner)
                told = owner.pid
            time.sleep(interval_s)

    def try_acquire(self) -> bool:
        """Take the lease unless somebody living has it."""
        return self._take() is None

    def release(self) -> None:
        """Let the next one in."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        with self._guard():
            owner = owner_of(self._folder)
            if owner is not None and owner.same(self._me):
                self._record.unlink()

    def _take(self) -> Owner | None:
        with self._guard():
            owner = owner_of(self._folder)
            if owner is not None and owner.alive(self._me):
                return owner
            self._write()
        self._thread.start()
        return None

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with self._guard():
                owner = owner_of(self._folder)
                if owner is None or not owner.same(self._me):
                    self._on_lost()
                    return
                self._write()

    def _write(self) -> None:
        write_whole(self._record, json.dumps(asdict(replace(self._me, heartbeat=time.time()))))

    @contextmanager
    def _guard(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lease.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def boot_id() -> str:
    """Differs after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _process_start(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
