"""Nothing phones home: the whole line in a network namespace that has loopback only, and no process tries for more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.settings import quiet_environment

# Raises the loopback interface (SIOCSIFFLAGS with IFF_UP | IFF_RUNNING), then becomes the command.
ENTER = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

# Python imports this at the start of every process of the line: a name or address that is not this machine's is written down.
WITNESS = """
import os, socket, sys
_LOG, _HOME = os.environ["WITNESS_LOG"], {"", "localhost", "0.0.0.0", "::", "::1", socket.gethostname()}
def _hook(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host or ""
    if host not in _HOME and not host.startswith("127."):
        with open(_LOG, "a") as log:
            log.write(f"{event} {host} from {sys.argv}\\n")
sys.addaudithook(_hook)
"""


def can_make_namespaces() -> bool:
    unshare = shutil.which("unshare")
    return unshare is not None and subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_make_namespaces(), reason="missing permission: network namespaces (unshare -rn)")
def test_the_line_runs_on_loopback_alone_and_asks_for_nothing_else(checkout: Callable[[Path], Path], tmp_path: Path) -> None:
    root = checkout(tmp_path / "off line")
    (tmp_path / "witness").mkdir()
    (tmp_path / "witness" / "sitecustomize.py").write_text(WITNESS)
    asked = tmp_path / "asked.txt"
    # The switches that the person's shell or the Makefile may hold are taken away: the defaults themselves must be quiet.
    loud = {
        name: value
        for name, value in os.environ.items()
        if name not in quiet_environment() and not name.startswith(("MMFS_", "PREFECT_", "MLFLOW_"))
    }
    environment = loud | {"PYTHONPATH": str(tmp_path / "witness"), "WITNESS_LOG": str(asked), "HOME": str(tmp_path)}
    command = [
        "unshare",
        "-rn",
        sys.executable,
        "-c",
        ENTER,
        "-m",
        "flows.cli",
        "run",
        "--preset",
        "smoke",
        "--tasks",
        "vqa,story",
        "--json",
    ]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    assert result["status"] == "Completed"
    assert not asked.exists(), asked.read_text()


@pytest.mark.skipif(not can_make_namespaces(), reason="missing permission: network namespaces (unshare -rn)")
def test_the_witness_sees_a_call(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITNESS)
    asked = tmp_path / "asked.txt"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "WITNESS_LOG": str(asked)}
    call = "import socket\ntry: socket.create_connection(('example.com', 443), 1)\nexcept OSError: print('no way out')"
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", ENTER, "-c", call], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "no way out\n"
    assert "example.com" in asked.read_text()
