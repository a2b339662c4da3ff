"""SIGKILL at any moment of the real line: the same command goes on as the same run and ends with the same weights and figures."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from components.run.paths import Home

KILLS = 12
SOONEST_S, LATEST_S = 2.0, 20.0
ORPHANS_S = 30.0
pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def attempt(root: Path, environment: dict[str, str], kill_after_s: float | None) -> dict[str, Any] | None:
    """Run the line; its result, or None where it was killed first. Only the flow's own process is shot: what it started must notice."""
    command = [sys.executable, "-m", "flows.cli", "run", "--preset", "smoke", "--json"]
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    assert process.returncode == 0, err + out
    result: dict[str, Any] = json.loads(out)
    return result


def living(root: Path) -> list[psutil.Process]:
    """Processes at work in a repository or its worktrees."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(root):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found


def outs(root: Path, result: dict[str, Any]) -> dict[str, str]:
    """Digest of every out of a run: index, shards, weights, losses, metrics, samples."""
    lock = yaml.safe_load((Home(root).run(result["run_id"]).folder / "dvc.lock").read_text(encoding="utf-8"))
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(
    trained_line: Any, checkout: Any, child_environment: dict[str, str], prefect_api: str, tmp_path: Path
) -> None:
    root = checkout(tmp_path / "repository")
    environment = {**child_environment, "PREFECT_API_URL": prefect_api}
    moments = random.Random(0)
    killed = 0
    runs: set[str] = set()
    result: dict[str, Any] | None = None
    while result is None:
        kill_after_s = moments.uniform(SOONEST_S, LATEST_S) if killed < KILLS else None
        result = attempt(root, environment, kill_after_s)
        killed += result is None
        runs |= {path.parent.name for path in Home(root).folder.glob("runs/*/run.json")}
    assert killed >= 3, "the line ended before it was killed often enough to say anything"
    assert runs == {result["run_id"]}, "a killed run must be gone on with, not begun anew"
    assert [(one["task"], one["digest"], one["decision"]) for one in result["models"]] == [
        (one["task"], one["digest"], one["decision"]) for one in trained_line.result["models"]
    ]
    assert outs(root, result) == outs(trained_line.root, trained_line.result)
    deadline = time.monotonic() + ORPHANS_S
    while (left := living(root)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, [process.cmdline() for process in left]
    assert not list(Home(root).worktrees.iterdir())
