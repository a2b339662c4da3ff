"""A network namespace that has loopback only, and a witness of every process that asks for more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

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


def alone(*arguments: str) -> list[str]:
    """The command `python *arguments` in a namespace of its own."""
    return ["unshare", "-rn", sys.executable, "-c", ENTER, *arguments]


def watched(folder: Path, environment: Mapping[str, str] = os.environ) -> tuple[dict[str, str], Path]:
    """An environment whose Python processes are watched, and the file that names what they asked for; it exists once they did."""
    (folder / "sitecustomize.py").write_text(WITNESS)
    asked = folder / "asked.txt"
    return {**environment, "PYTHONPATH": str(folder), "WITNESS_LOG": str(asked)}, asked


def loud(home: Path) -> dict[str, str]:
    """The environment without the switches that the person's shell or the Makefile may hold: the defaults themselves must be quiet."""
    own = ("MMFS_", "PREFECT_", "MLFLOW_")
    return {name: value for name, value in os.environ.items() if name not in quiet_environment() and not name.startswith(own)} | {
        "HOME": str(home)
    }
