"""The `mmfs` command as users call it, in a repository of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.cli import main

SOURCE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Mmfs = Callable[..., Ended]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with params.yaml and its overlays; the current folder."""
    root = tmp_path / "a checkout"
    root.mkdir()
    shutil.copyfile(SOURCE / "params.yaml", root / "params.yaml")
    shutil.copytree(SOURCE / "params", root / "params")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    monkeypatch.delenv("MMFS_ROOT", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def mmfs(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Mmfs:
    """Call the command in this process: `mmfs("runs", "--json")`."""

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["mmfs", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return call
