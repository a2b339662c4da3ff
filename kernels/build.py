"""Makes the C++ operator: `python -m kernels.build [--prebuilt]`. Needs a C++ compiler, no Python headers, no ninja.

A library is named by the digest of its source, of torch's version and of its flags, and by the instructions that torch itself uses on
this processor, so that a cache shared by different machines serves each the right one. It is compiled beside its place and renamed, so
that no process ever sees half a file. `--prebuilt` makes one for every kind of x86-64 processor inside of the package, for a wheel.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

SOURCE = Path(__file__).parent / "deformable_attention" / "cpu"
PREBUILT = SOURCE / "prebuilt"
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++20", "-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-Wl,--no-undefined")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
# The instructions per name that torch.backends.cpu.get_cpu_capability gives: those with which torch compiles its own kernels.
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "DEFAULT": (),
    "AVX2": _AVX2,
    "AVX512": (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
}
TIMEOUT = 600.0  # seconds; a compiler that takes longer hangs


class BuildError(RuntimeError):
    """There is no library; the text says why and how to get one."""


def find() -> Path | None:
    """The library for this machine, from the wheel or the cache; never compiles. Raises BuildError for a cache others can change."""
    name = file_name(capability())
    for folder in (PREBUILT, cache_folder()):
        if (folder / name).is_file():
            if folder != PREBUILT:
                _trust(folder)
                _trust(folder / name)
            return folder / name
    return None


def find_or_build() -> Path:
    """The library for this machine, compiled when it is not there. Raises BuildError."""
    return find() or build(cache_folder(), capability())


def build(folder: Path, instructions: str) -> Path:
    """Compile into a folder, once however many processes ask. Raises BuildError naming the cause."""
    compiler = find_compiler()
    target = folder / file_name(instructions)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _trust(folder)
        with _locked(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch:
            if not target.is_file():
                made = Path(scratch) / "library.so"
                _compile([compiler, *FLAGS, *INSTRUCTIONS[instructions], str(SOURCE / "op.cpp"), *_torch_flags(), "-o", str(made)], scratch)
                made.chmod(0o700)
                made.replace(target)
    except OSError as error:
        raise BuildError(f"{folder} cannot be written ({error.strerror or error}); set XDG_CACHE_HOME to a folder of yours") from None
    return target


def capability() -> str:
    """The instructions of this processor by torch's name."""
    if platform.machine() != "x86_64":
        return "DEFAULT"
    found = torch.backends.cpu.get_cpu_capability()
    return found if found in INSTRUCTIONS else "DEFAULT"


def file_name(instructions: str) -> str:
    """Equal names mean equal libraries, whatever folder they are in."""
    digest = hashlib.sha256(repr((torch.__version__, FLAGS, INSTRUCTIONS[instructions], platform.machine())).encode())
    for file in sorted((*SOURCE.glob("*.cpp"), *SOURCE.glob("*.h"))):
        digest.update(file.read_bytes())
    return f"deformable_attention-{instructions.lower()}-{digest.hexdigest()[:20]}.so"


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's cache: $XDG_CACHE_HOME/mmfs/kernels, or ~/.cache/mmfs/kernels."""
    named = environment.get("XDG_CACHE_HOME", "")
    return (Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~/.cache"))) / "mmfs" / "kernels"


def find_compiler(environment: Mapping[str, str] = os.environ) -> str:
    """$CXX, or the first compiler on the PATH. Raises BuildError."""
    path = environment.get("PATH")
    for name in (environment["CXX"],) if environment.get("CXX") else COMPILERS:
        if found := shutil.which(name, path=path):
            return found
    raise BuildError("no C++ compiler found; install one, for example `apt install g++`, or name it in CXX")


def _torch_flags() -> list[str]:
    folder = Path(torch.__file__).parent
    return [f"-I{folder / 'include'}", f"-L{folder / 'lib'}", "-ltorch_cpu", "-lc10"]


def _compile(command: list[str], scratch: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=TIMEOUT, env=os.environ | {"TMPDIR": scratch}
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} did not end within {TIMEOUT:.0f} s") from None
    if done.returncode:
        complaint = next((line for line in done.stderr.splitlines() if "error" in line.lower()), f"exit status {done.returncode}")
        raise BuildError(f"{command[0]} failed: {complaint.strip()}; a newer compiler may help, or another one named in CXX")


def _trust(path: Path) -> None:
    """A library runs as this user: neither it nor its folder may be another user's to change."""
    status = path.stat()
    if status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022:
        raise BuildError(f"{path} can be changed by other users; `chmod go-w` it, or delete it")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One builder at a time on this machine; the lock goes with its process. Across machines the rename is enough."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    """Exit status 1 when there is no library at the end."""
    parser = argparse.ArgumentParser(prog="python -m kernels.build", description=__doc__)
    parser.add_argument("--prebuilt", action="store_true", help="for every x86-64 processor, inside of the package: for a wheel")
    prebuilt = parser.parse_args(arguments).prebuilt
    try:
        made = [build(PREBUILT, name) for name in INSTRUCTIONS] if prebuilt else [find_or_build()]
    except BuildError as error:
        sys.stderr.write(f"kernels: {error}\n")
        return 1
    sys.stdout.write("".join(f"{path}\n" for path in made))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
