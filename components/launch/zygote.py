"""A process that has imported the heavy libraries once and forks ranks on request: `python -m components.launch.zygote SOCKET PARENT`,
SOCKET being the descriptor of a listening one.

One connection is one rank. The client sends a JSON line {module, arguments, environment, folder, log} and gets {"pid"} and, when the rank
ends, {"status"}; or {"refused"}. A client that goes away takes its rank with it, and so does the zygote.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from components.launch.child import become, die_with
from components.launch.imports import heavy_imports

PRELOADED = (
    "torch",
    "safetensors.torch",
    "lightning.pytorch",
    "deepspeed",
    "omegaconf",  # Lightning imports it with the first checkpoint
    "transformers.models.llama.modeling_llama",
    "transformers.models.clip.modeling_clip",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.schedulers.scheduling_ddim",
    "diffusers.schedulers.scheduling_ddpm",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
)
"""Libraries only: the project's own modules are imported by each rank, from the folder it is started in."""
_REAP_S = 0.02


class Zygote:
    """Serves requests one after the other; single-threaded, because a fork keeps only the forking thread."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ranks: dict[int, socket.socket] = {}

    def serve(self) -> None:
        """Fork, reap and report until killed."""
        while True:
            for key, _ in self._selector.select(_REAP_S if self._ranks else None):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._hear(key.fileobj)  # type: ignore[arg-type]
            self._reap()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        try:
            with connection.makefile("r", encoding="utf-8") as lines:
                request = json.loads(lines.readline())
        except ValueError:
            connection.close()
            return
        if Path(request["folder"]) != Path.cwd():
            _tell(connection, {"refused": f"this zygote serves {Path.cwd()}"})
            connection.close()
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _run(request, parent)
        self._ranks[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ)
        _tell(connection, {"pid": pid})

    def _hear(self, connection: socket.socket) -> None:
        """A client says nothing after its request; that it is readable means that it is gone."""
        pid = next(pid for pid, known in self._ranks.items() if known is connection)
        self._selector.unregister(connection)
        _kill(pid)

    def _reap(self) -> None:
        for pid, connection in list(self._ranks.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._ranks[pid]
                if connection in {key.fileobj for key in self._selector.get_map().values()}:
                    self._selector.unregister(connection)
                _tell(connection, {"status": os.waitstatus_to_exitcode(status)})
                connection.close()


def _run(request: dict[str, Any], parent: int) -> None:
    """In the fork: become the rank. Never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        die_with(parent)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        silence = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, silence), (1, log), (2, log)):
            os.dup2(source, target)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(request["environment"])
        become(request["module"], request["arguments"])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _tell(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the client is gone, its rank is killed when that is noticed
        connection.sendall(json.dumps(message).encode() + b"\n")


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # the group may not exist yet
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def main(listener: socket.socket, parent: int) -> int:
    """Import, check that forking is safe, serve."""
    die_with(parent)
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # DeepSpeed would import it; no rank tracks
    with heavy_imports():
        for name in PRELOADED:
            importlib.import_module(name)
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1:
        sys.stderr.write(f"an import has started {len(threads) - 1} threads: forks would be broken\n")
        return 1
    Zygote(listener).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])))
