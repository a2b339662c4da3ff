"""What this machine has and lacks for mmfs, each finding with its fix. Nothing is changed and nothing heavy is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.services.ports import is_free
from components.services.stack import DEFAULT_PORTS, Stack
from components.settings import quiet_environment

DISK_GIB = 6.0
MEMORY_GIB = 6.0
OLDEST_PYTHON = (3, 11)
COMPILERS = ("g++", "c++", "clang++")
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Finding:
    """One check: `missing` keeps mmfs from working, `limited` costs a part that the detail names."""

    name: str
    state: Literal["ok", "limited", "missing"]
    detail: str
    fix: str = ""


def examine(root: Path, environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Every check, in the order in which they matter."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _system,
        lambda: _git(root),
        lambda: _disk(root),
        _memory,
        _deepspeed,
        _kernels,
        _sampling,
        lambda: _ports(root),
        lambda: _telemetry(environment),
        _make,
        _java,
        _chromium,
        _device,
    ]
    return [check() for check in checks]


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("python", "ok", f"{found} at {sys.executable}")
    return Finding("python", "missing", f"{found} is too old", "install Python 3.11 or newer, then `make setup PYTHON=python3.11`")


def _system() -> Finding:
    system, machine = platform.system(), platform.machine()
    if (system, machine) == ("Linux", "x86_64"):
        return Finding("system", "ok", f"{system} {machine}")
    return Finding("system", "limited", f"{system} {machine} is not supported", "run mmfs in a Linux x86-64 container; see infra/README.md")


def _git(root: Path) -> Finding:
    if shutil.which("git") is None:
        return Finding("git", "missing", "not installed", "install git, for example `apt install git`")
    asked = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if asked.returncode:
        fix = "run mmfs inside a clone (`git clone`), or commit once: every run is tied to a commit"
        return Finding("git", "missing", f"{root} is no git repository with a commit", fix)
    return Finding("git", "ok", f"at {asked.stdout.strip()[:12]}")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 2**30
    if free >= DISK_GIB:
        return Finding("disk", "ok", f"{free:.0f} GiB free")
    return Finding("disk", "limited", f"{free:.1f} GiB free, a first run may need {DISK_GIB:.0f}", f"free some space on the disk of {root}")


def _memory() -> Finding:
    import psutil

    available = psutil.virtual_memory().available / 2**30
    if available >= MEMORY_GIB:
        return Finding("memory", "ok", f"{available:.0f} GiB available")
    return Finding(
        "memory",
        "limited",
        f"{available:.1f} GiB available, the demo may need {MEMORY_GIB:.0f}",
        "close other programs, or set pretrain.ranks=1",
    )


def _deepspeed() -> Finding:
    if importlib.util.find_spec("deepspeed") is None:
        return Finding("deepspeed", "missing", "not installed", "run `make setup`")
    return Finding(
        "deepspeed",
        "ok",
        f"{importlib.metadata.version('deepspeed')}, ranks on {'CUDA' if _has_gpu() else 'CPU over gloo, no compiler needed'}",
    )


def _kernels() -> Finding:
    owners = importlib.metadata.packages_distributions().get("kernels", [])
    if "kernels" in owners:
        return Finding(
            "kernels", "missing", "the Hugging Face distribution `kernels` hides mmfs's own package", "run `pip uninstall kernels`"
        )
    return Finding("kernels", "ok", "the package is mmfs's own")


def _sampling() -> Finding:
    """What `model.sampling_path` may be here; whether a library is there already only torch could tell."""
    paths = ["torch", *(["triton"] if _has_gpu() and importlib.util.find_spec("triton") else [])]
    if os.environ.get("CXX") or any(map(shutil.which, COMPILERS)):
        return Finding("sampling", "ok", f"model.sampling_path may be {', '.join(paths)}, or cpp, compiled at its first use")
    return Finding(
        "sampling",
        "limited",
        f"no C++ compiler: model.sampling_path may be {', '.join(paths)}, and cpp only where its library was made before",
        "install one, for example `apt install g++`, or name it in CXX; `mmfs run` needs none",
    )


def _ports(root: Path) -> Finding:
    stack = Stack(root, {})
    taken = [str(port) for name, port in DEFAULT_PORTS.items() if stack.url(name) is None and not is_free(port)]
    if not taken:
        return Finding("ports", "ok", "free or held by this checkout: " + ", ".join(map(str, DEFAULT_PORTS.values())))
    return Finding(
        "ports", "limited", f"taken by another program: {', '.join(taken)}", "`mmfs up` chooses free ones; `mmfs status` names them"
    )


def _telemetry(environment: Mapping[str, str]) -> Finding:
    different = [name for name, value in quiet_environment().items() if environment.get(name, value).lower() != value.lower()]
    if not different:
        return Finding("telemetry", "ok", "off for every tool, hubs offline")
    return Finding(
        "telemetry",
        "limited",
        f"switched on by your environment: {', '.join(different)}",
        f"`unset {' '.join(different)}` to be quiet again",
    )


def _java() -> Finding:
    if shutil.which("java"):
        return Finding("java", "ok", "captions are scored")
    return Finding(
        "java",
        "limited",
        "not installed: CIDEr of captions is reported as unavailable",
        "install one, for example `apt install default-jre-headless`",
    )


def _make() -> Finding:
    if shutil.which("make"):
        return Finding("make", "ok", "`make setup`, `make test`")
    return Finding(
        "make", "limited", "not installed: no `make setup`, `make demo`, `make test`", "install it, for example `apt install make`"
    )


def _chromium() -> Finding:
    if any(map(shutil.which, CHROMIUMS)):
        return Finding("chromium", "ok", "tests look at the pages")
    return Finding(
        "chromium",
        "limited",
        "not installed: tests that look at pages are skipped",
        "install it, for example `apt install chromium fonts-dejavu-core`",
    )


def _device() -> Finding:
    return Finding("device", "ok", "an NVIDIA GPU is visible" if _has_gpu() else f"CPU, {os.cpu_count()} cores")


def _has_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists()
