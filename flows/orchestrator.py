"""The Prefect API that a run on this machine talks to: the server of `mmfs up`, or a private one that lives as long as the run.

Prefect would start such a server itself, but only when its client is first used, without dying when the flow is killed, and giving up after
20 seconds. Started here it warms up while the run prepares everything else. Nothing of Prefect is imported.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from components.run.failures import FailureClass, StageError
from components.run.paths import Home
from components.services.health import answers
from components.services.ports import HOST, any_port
from components.services.stack import Stack
from components.settings import quiet

START_TIMEOUT_S = 180.0
Wait = Callable[[], None]


def configure(root: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Point Prefect at this repository's home, whatever the current folder. Call before Prefect is imported."""
    quiet(environment)
    home = Home(root).prefect
    environment.setdefault("PREFECT_HOME", str(home))
    environment.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the command says itself what failed


@contextmanager
def api(root: Path, environment: MutableMapping[str, str] = os.environ) -> Iterator[Wait]:
    """An API for the duration of the block, its address in PREFECT_API_URL at once; call the value to wait until it answers.

    An address that the user gave wins, then the server of `mmfs up`, then a private one. Prefect reads the address when it is imported, so
    enter the block first. Waiting raises StageError (infrastructure) when the private server does not come up.
    """
    configure(root, environment)
    if "PREFECT_API_URL" in environment:
        yield lambda: None
        return
    shared = Stack(root, environment).api_url()
    with nullcontext((shared, lambda: None)) if shared else _private(root, environment) as (address, wait):
        environment["PREFECT_API_URL"] = address
        try:
            yield wait
        finally:
            del environment["PREFECT_API_URL"]


@contextmanager
def _private(root: Path, environment: MutableMapping[str, str]) -> Iterator[tuple[str, Wait]]:
    home = Path(environment["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    log = home / "private-server.log"
    with (home / "private-server.lock").open("w") as lock, log.open("ab") as stream:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first starts at once would both migrate the database
        port = any_port()  # nobody looks for it, and with a fixed one two runs that start together would meet
        address = f"http://{HOST}:{port}/api"
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "components.launch.child", str(os.getpid()), "uvicorn"),
                *("--factory", "prefect.server.api.server:create_app", "--host", HOST, "--port", str(port)),
                *("--log-level", "error", "--lifespan", "on"),
            ],
            cwd=root,
            env={**environment, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

        def wait() -> None:
            _await_health(server, address, log)
            fcntl.flock(lock, fcntl.LOCK_UN)

        try:
            yield address, wait
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _await_health(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is not None or not answers(f"{address}/health"):
        if server.poll() is not None or time.monotonic() > deadline:
            raise StageError(
                FailureClass.INFRASTRUCTURE, f"Prefect's private server did not start; see {log}", "run the same command again"
            )
        time.sleep(0.05)
