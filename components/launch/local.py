"""Starts the ranks of a stage as processes of this machine, watches them and ends them together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

HOST = "127.0.0.1"
GRACE_S = 10.0
_POLL_S = 0.05
_QUIET_S = 0.3


class Process(Protocol):
    """A started rank, whoever started it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """The exit status (negative: the signal that ended it), or None while it runs."""
        ...


class Starter(Protocol):
    """Starts one rank in a process group of its own, its output appended to `log`; the rank dies with the calling process."""

    def __call__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process: ...


@dataclass(frozen=True)
class DeadRank:
    """A rank that ended with another status than 0."""

    rank: int
    status: int
    log: Path

    def last_words(self, lines: int = 5) -> str:
        """The end of its log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(line for line in text.splitlines()[-lines:] if line.strip())


class RankGroup:
    """The ranks of one stage: they succeed together, and a dead one ends the others."""

    def __init__(self, processes: Sequence[Process], logs: Sequence[Path], grace_s: float = GRACE_S) -> None:
        """`grace_s`: what the ranks get to save and leave when the block around the group ends."""
        self._processes = tuple(processes)
        self._logs = tuple(logs)
        self._grace_s = grace_s

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(process.pid for process in self._processes)

    def poll(self) -> tuple[bool, DeadRank | None]:
        """(whether all ranks have ended, the rank that failed). After a failure the others are killed before this returns."""
        statuses = [process.poll() for process in self._processes]
        failed = [DeadRank(rank, status, self._logs[rank]) for rank, status in enumerate(statuses) if status]
        if failed:
            self.stop(grace_s=0)  # the survivors wait for the dead one in a collective
            return True, min(failed, key=_blame)
        return all(status == 0 for status in statuses), None

    def stop(self, grace_s: float = GRACE_S) -> None:
        """SIGTERM, up to `grace_s` seconds to save and leave, SIGKILL to each rank's process group."""
        if grace_s > 0 and self._alive():
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + grace_s
            while self._alive() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        self._signal(signal.SIGKILL)
        while self._alive():
            time.sleep(_POLL_S)

    def asked(self, number: signal.Signals, patience_s: float) -> list[str]:
        """Send a signal to each living rank, not to what it started, and wait until its log is quiet again; what each wrote."""
        begins = [log.stat().st_size if log.exists() else 0 for log in self._logs]
        for process in self._alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        texts, deadline = [b""] * len(self._logs), time.monotonic() + patience_s
        while time.monotonic() < deadline:
            time.sleep(_QUIET_S)
            before, texts = texts, [_read_from(log, begin) for log, begin in zip(self._logs, begins, strict=True)]
            if texts == before and all(texts):
                break
        return [text.decode(errors="replace") or "no answer\n" for text in texts]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop(self._grace_s)

    def _alive(self) -> list[Process]:
        return [process for process in self._processes if process.poll() is None]

    def _signal(self, number: signal.Signals) -> None:
        for process in self._alive():
            with contextlib.suppress(ProcessLookupError):  # it ended since it was looked at
                os.killpg(process.pid, number)


def launch_ranks(
    module: str,
    arguments: Sequence[str],
    ranks: int,
    environment: Mapping[str, str],
    log_dir: Path,
    start: Starter | None = None,
    grace_s: float = GRACE_S,
) -> RankGroup:
    """Start `python -m module arguments` once per rank with torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_*).

    Logs are `log_dir`/rank-N.log, appended to. Use the group as a context manager: leaving it ends what still runs.
    Raises OSError when a process cannot be started; those already started are ended.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    meeting = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": HOST, "MASTER_PORT": str(_free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    logs = [log_dir / f"rank-{rank}.log" for rank in range(ranks)]
    processes: list[Process] = []
    try:
        for rank, log in enumerate(logs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append((start or start_process)(module, arguments, {**environment, **meeting, **own}, log))
    except BaseException:
        RankGroup(processes, logs).stop(grace_s=0)
        raise
    return RankGroup(processes, logs, grace_s)


def start_process(module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """Start a fresh interpreter. Call from the main thread: the child lives as long as the thread that started it."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "components.launch.child", str(os.getpid()), module, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _read_from(path: Path, begin: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read()
    except FileNotFoundError:
        return b""


def _blame(dead: DeadRank) -> tuple[bool, int]:
    """Order of suspicion: a rank ended by a signal is the cause, its peers only report a lost connection."""
    return dead.status > 0, dead.rank
