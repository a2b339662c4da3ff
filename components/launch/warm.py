"""Ranks forked from a zygote that has the heavy imports behind it; the results are those of freshly started ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.launch.local import Process, start_process

SOCKET_VARIABLE = "MMFS_WARM_SOCKET"
# A fork keeps no threads, so none may start: the pools of OpenMP and BLAS, the allocator of Arrow.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_READY_S = 120.0
"""How long a rank waits for a zygote that still imports; one that has died is noticed at once."""


@contextmanager
def warm_ranks(environment: Mapping[str, str], folder: Path, log: Path) -> Iterator[dict[str, str]]:
    """A zygote for the stages that run in `folder` while the block lasts. Yields the variables to give to those stages.

    It imports in the background; a stage that comes before it is ready waits for the rest, which is always less than what its own ranks
    would import. A stage from another folder, or one whose zygote has died, starts its ranks afresh.
    Not for machines with a GPU: a CUDA context does not survive a fork.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mmfs-") as home:
        path = Path(home) / "warm.sock"
        with log.open("ab") as stream, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen()  # here, so that no request can come too early; the zygote alone keeps it open
            process = subprocess.Popen(
                [sys.executable, "-m", "components.launch.zygote", str(listener.fileno()), str(os.getpid())],
                cwd=folder,
                env={**environment, **_ONE_THREAD, "DS_ACCELERATOR": "cpu", "PYTHONHASHSEED": "0"},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        try:
            yield {SOCKET_VARIABLE: str(path)}
        finally:
            process.kill()
            process.wait()


class WarmProcess:
    """A rank in a fork of the zygote, followed over its socket."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self._connection = connection
        self._answer = b""
        self._status: int | None = None
        connection.setblocking(False)

    def poll(self) -> int | None:
        """As `subprocess.Popen.poll`; a zygote that dies takes its ranks with it (status -9)."""
        while self._status is None:
            try:
                received = self._connection.recv(4096)
            except BlockingIOError:
                return None
            except OSError:
                received = b""
            self._answer += received
            if self._answer.endswith(b"\n"):
                self._status = int(json.loads(self._answer)["status"])
            elif not received:
                self._status = -9
        self._connection.close()
        return self._status


def start_warm(module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """Start a rank from the zygote that `MMFS_WARM_SOCKET` in `environment` names, or afresh where there is none that would serve."""
    path = environment.get(SOCKET_VARIABLE)
    request = {
        "module": module,
        "arguments": list(arguments),
        "environment": dict(environment),
        "folder": str(Path.cwd()),
        "log": str(log.resolve()),
    }
    return (_ask(path, request) if path else None) or start_process(module, arguments, environment, log)


def _ask(path: str, request: dict[str, Any]) -> WarmProcess | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_READY_S)
        connection.connect(path)
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            received = connection.recv(1)  # byte by byte: what follows the line belongs to poll()
            if not received:
                raise ConnectionError("the zygote has gone away")
            answer += received
        pid = json.loads(answer).get("pid")
    except (OSError, ValueError):
        pid = None
    if pid is None:
        connection.close()
        return None
    return WarmProcess(connection, pid)
