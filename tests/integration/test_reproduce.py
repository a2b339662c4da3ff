"""Killed, taken up again, rebuilt: the weights are equal to the last bit; changed by one line, they differ and the stage is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.run.events import read_events
from components.run.paths import Home

pytestmark = pytest.mark.timeout(3600)
ASKED = ("run", "--preset", "smoke", "--set", "tasks=[vqa]", "--set", "pretrain.steps=12", "--json")
STAGES = ["prepare", "pretrain", "finetune@vqa", "evaluate@vqa"]


@pytest.fixture(scope="module")
def line(trained_line: Any, local_stack: Any) -> Any:
    """The trained repository; its commands use the server that is up anyway."""
    return replace(trained_line, environment={**trained_line.environment, "PREFECT_API_URL": local_stack.api})


@pytest.fixture(scope="module")
def taken_up(line: Any) -> dict[str, Any]:
    """The result of a run whose process was killed in the middle of its pretraining, then asked for again."""
    command = [sys.executable, "-m", "flows.cli", *ASKED]
    killed = subprocess.Popen(command, cwd=line.root, env=line.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    known = {path.name for path in (Home(line.root).folder / "runs").iterdir()}
    run = wait_for_steps(Home(line.root), known, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    result: dict[str, Any] = line.mmfs(*ASKED)
    assert (result["run_id"], result["continued"], result["status"]) == (run, True, "Completed"), result
    return result


def wait_for_steps(home: Home, known: set[str], process: subprocess.Popen[bytes]) -> str:
    """The name of the new run, once its pretraining has told of more than its first checkpoint."""
    while process.poll() is None:
        for path in (home.folder / "runs").iterdir():
            if path.name not in known and any(
                event.name == "progress" and event.values["done"] >= 4 for event in read_events(home.run(path.name).events("pretrain"))
            ):
                return path.name
        time.sleep(0.05)
    raise AssertionError(process.communicate())


@pytest.fixture(scope="module")
def rebuilt(line: Any, taken_up: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `mmfs reproduce` says of the run with its own source and with a changed one; at once, since each leaves one core idle often."""
    sources = {"its own": [], "changed": ["--source", changed_source(line.root, tmp_path_factory.mktemp("changed") / "copy")]}
    command = [sys.executable, "-m", "flows.cli", "reproduce", f"models:/mmfs-vqa/{taken_up['models'][0]['version']}", "--json"]
    started = {
        name: subprocess.Popen([*command, *options], cwd=line.root, env=line.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name, options in sources.items()
    }
    told = {name: process.communicate() for name, process in started.items()}
    assert all(out for out, _ in told.values()), told
    return {name: json.loads(out) for name, (out, _) in told.items()}


def changed_source(root: Path, copy: Path) -> str:
    """A commit that differs from the present source in one line, which weighs on the weights."""
    _git(root, "worktree", "add", "-q", "--detach", str(copy))
    source = copy / "components" / "training" / "optimizer.py"
    changed = source.read_text().replace("math.cos(math.pi * ", "math.cos(3.1 * ")
    assert changed != source.read_text()
    source.write_text(changed)
    _git(copy, "commit", "-qam", "another schedule")
    return _git(copy, "rev-parse", "HEAD")


def test_a_killed_run_goes_on_from_its_checkpoint(line: Any, taken_up: dict[str, Any]) -> None:
    events = read_events(Home(line.root).run(taken_up["run_id"]).events("pretrain"))
    steps = [event.values["done"] for event in events if event.name == "progress"]
    starts = [number for number, event in enumerate(events) if event.name == "started"]
    assert len(starts) == 2
    resumed = next(event.values["done"] for event in events[starts[1] :] if event.name == "progress")
    assert resumed > 2
    assert steps[-1] == 12


def test_rebuilt_without_a_kill_and_without_a_cache_it_is_identical(taken_up: dict[str, Any], rebuilt: dict[str, dict[str, Any]]) -> None:
    told = rebuilt["its own"]
    assert told["identical"] is True, told
    assert (told["run_id"], told["stages_run"]) == (taken_up["run_id"], STAGES)


def test_one_changed_line_gives_other_weights_and_names_the_stage(rebuilt: dict[str, dict[str, Any]]) -> None:
    told = rebuilt["changed"]
    assert told["identical"] is False
    assert told["stages_run"] == STAGES
    differing = [(row["stage"], row["what"]) for row in told["differences"]]
    assert ("pretrain", "weights") in differing
    assert {stage for stage, _ in differing} <= {"pretrain", "finetune@vqa", "evaluate@vqa"}


def _git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()
