"""Run a command and see what it costs: wall seconds, and the peak of the memory of all its processes together."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_S = 1.0  # a look walks the page tables of every process, which costs them time


@dataclass(frozen=True)
class Cost:
    """`peak_gib` counts a page that processes share once (proportional set size)."""

    returncode: int
    seconds: float
    peak_gib: float
    output: str


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run to the end; standard output is returned, errors go to this process's."""
    started = time.monotonic()
    with subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=subprocess.PIPE, text=True) as process:
        peak = _Peak(process.pid)
        peak.start()
        output, _ = process.communicate()
        seconds = time.monotonic() - started
        peak.stop()
    return Cost(process.returncode, seconds, peak.bytes / 2**30, output)


class _Peak(threading.Thread):
    """Samples the process tree; a process once seen in it is followed also after its parent has gone."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._seen: dict[int, psutil.Process] = {pid: psutil.Process(pid)}
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self.bytes = max(self.bytes, sum(self._sizes()))

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _sizes(self) -> list[int]:
        sizes = []
        for process in list(self._seen.values()):
            try:
                self._seen |= {child.pid: child for child in process.children(recursive=True) if child.pid not in self._seen}
            except psutil.NoSuchProcess:
                del self._seen[process.pid]
        for process in self._seen.values():
            try:
                sizes.append(process.memory_full_info().pss)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return sizes
