"""A disk of a few megabytes that can really be full: a memory file system in a mount namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Mounts the disk, says so, and holds the namespace until its input ends.
HOLD = 'mount -t tmpfs -o size="$2" tmpfs "$1" && echo mounted && exec cat'


class SmallDisk:
    """Only processes started by `run` see the disk at `path`; the test itself reaches its files through `seen`."""

    def __init__(self, holder: subprocess.Popen[str], path: Path) -> None:
        self.path = path
        self.seen = Path(f"/proc/{holder.pid}/root{path}")
        self._enter = ["nsenter", f"--target={holder.pid}", "--user", "--mount", "--preserve-credentials"]

    def run(self, folder: Path, environment: Mapping[str, str], *command: str) -> subprocess.CompletedProcess[str]:
        """The command, started in a folder of the disk."""
        entered = [*self._enter, "sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command]
        return subprocess.run(entered, env=dict(environment), capture_output=True, text=True, check=False)

    def fill(self) -> None:
        """Leave not one byte."""
        filling = ["dd", "if=/dev/zero", f"of={self.seen / 'ballast'}", "bs=64k"]
        ended = subprocess.run(filling, env={"LC_ALL": "C", "PATH": os.defpath}, capture_output=True, text=True, check=False)
        assert "No space left on device" in ended.stderr

    def free(self) -> None:
        """Take the ballast away."""
        (self.seen / "ballast").unlink()


def can_make_disks() -> bool:
    tools = shutil.which("unshare"), shutil.which("nsenter")
    return None not in tools and subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """A disk of `size` (as mount has it: 64m) at an empty folder."""
    path.mkdir()
    holding = ["unshare", "-rm", "sh", "-c", HOLD, "sh", str(path), size]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        try:
            assert holder.stdout.readline() == "mounted\n"
            yield SmallDisk(holder, path)
        finally:
            holder.stdin.close()
