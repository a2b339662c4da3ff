"""What infra/setup.sh refuses: one line with the fix, and nothing installed. Its interpreters and programs are stand-ins here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "infra" / "setup.sh"
TOOLS = ("bash", "sh", "cat", "git", "sha256sum")
OLD = 'case "$*" in *version_info*) exit 1 ;; -V) echo "Python 3.9.2" ;; esac'
NO_VENV = 'case "$*" in *ensurepip*) exit 1 ;; -V) echo "Python 3.12.1" ;; esac'
# Passes every check, so that a test of what comes before fails where that is not refused.
GOOD = 'case "$*" in "-m venv"*) echo "made an environment" ;; esac'


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with git, a good Linux and a python3 that would do; its programs are in `bin`, a clone with a commit in `clone`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (programs / tool).symlink_to(found)
    stand_in(programs / "uname", 'case "$1" in -s) echo Linux ;; -m) echo x86_64 ;; -sm) echo "Linux x86_64" ;; esac')
    stand_in(programs / "python3", GOOD)
    clone = tmp_path / "clone"
    subprocess.run(["git", "init", "-q", str(clone)], check=True)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "source"], cwd=clone, check=True)
    return tmp_path


def stand_in(path: Path, script: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def refusal(machine: Path, folder: str = "clone", python: str | None = None) -> str:
    """The line with which the script refuses to set up."""
    environment = {"PATH": str(machine / "bin"), "HOME": str(machine), "GIT_CEILING_DIRECTORIES": str(machine)}
    if python is not None:
        environment["PYTHON"] = python
    done = subprocess.run(
        [str(machine / "bin" / "bash"), str(SCRIPT), ".venv"],
        cwd=machine / folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("setup: ") and done.stderr.count("\n") == 1, done.stderr
    assert os.listdir(machine / folder) in ([".git"], [])
    return done.stderr


def test_an_old_python(machine: Path) -> None:
    stand_in(machine / "bin" / "python3", OLD)
    assert "Python 3.11 or newer is needed, python3 is Python 3.9.2" in (line := refusal(machine))
    assert "make setup PYTHON=" in line


def test_a_python_that_makes_no_environments(machine: Path) -> None:
    stand_in(machine / "bin" / "python3", NO_VENV)
    assert "apt-get install python3-venv" in refusal(machine)


def test_a_python_that_is_not_there(machine: Path) -> None:
    assert "python3.14 is missing" in refusal(machine, python="python3.14")


def test_no_git(machine: Path) -> None:
    (machine / "bin" / "git").unlink()
    assert "git is missing; install it" in refusal(machine)


def test_a_folder_that_is_no_clone(machine: Path) -> None:
    (machine / "copy").mkdir()
    assert "use git clone" in refusal(machine, folder="copy")


def test_another_system(machine: Path) -> None:
    stand_in(machine / "bin" / "uname", 'case "$1" in -s) echo Darwin ;; -m) echo arm64 ;; esac')
    assert "this is Darwin on arm64" in refusal(machine)
