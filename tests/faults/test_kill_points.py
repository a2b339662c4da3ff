"""SIGKILL at drawn points of each class of the real line: the same command again ends with the weights of a run that nobody disturbed.

MMFS_FAULT_SEED draws other points; the seed and the point of each test are printed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from components.run.paths import Home

SEED = os.environ.get("MMFS_FAULT_SEED", "0")
DRAWS = 3
CLASSES = ("flow", "stage", "rank", "restore", "archive", "register")
STAGES = ("prepare", "pretrain", "finetune@vqa", "evaluate@vqa")
COMMAND = (sys.executable, "-m", "flows.cli", "run", "--preset", "smoke", "--tasks", "vqa", "--json")
ZYGOTE = "components.launch.zygote"
LATEST_S = 1.0
PATIENCE_S = 300.0
pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Point:
    """Where to shoot: once the run says that `step` runs and a process of `module` is there, `delay_s` later.

    Shot are that process, and the flow where `flow` says so; `module` may be empty.
    """

    step: str
    module: str
    flow: bool
    delay_s: float

    @classmethod
    def draw(cls, kind: str, number: int) -> Point:
        """The point of this number of a class."""
        moments = random.Random(f"{SEED} {kind} {number}")
        stage = moments.choice(STAGES if kind in ("flow", "stage") else STAGES[1:])
        program = f"components.{stage.partition('@')[0]}"
        step, module, flow = {
            "flow": (stage, program, True),
            "stage": (stage, program, False),
            "rank": (stage, ZYGOTE, False),
            "restore": ("version", "components.run.restore", True),
            "archive": ("archive", "components.run.archive", True),
            "register": ("register vqa", "", True),
        }[kind]
        return cls(step, module, flow, moments.uniform(0, LATEST_S))


@dataclass(frozen=True)
class Line:
    """A repository in which the line runs."""

    root: Path
    environment: dict[str, str]

    def start(self) -> subprocess.Popen[str]:
        """The command; it tells its steps on standard error."""
        return subprocess.Popen(
            COMMAND, cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )

    def run(self) -> dict[str, Any]:
        """The result of a run that must end well."""
        process = self.start()
        out, err = process.communicate()
        assert process.returncode == 0, err + out
        result: dict[str, Any] = json.loads(out)
        return result

    def outs(self, result: dict[str, Any]) -> dict[str, str]:
        """Digest of every out of a run: index, shards, weights, losses, metrics, samples."""
        lock = yaml.safe_load((Home(self.root).run(result["run_id"]).folder / "dvc.lock").read_text(encoding="utf-8"))
        return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}


def victims(flow: psutil.Process, module: str) -> Iterator[psutil.Process]:
    """The processes of a module that are there now; of the zygote, the ranks that it forked."""
    for process in flow.children(recursive=module != ZYGOTE):
        with suppress(psutil.NoSuchProcess):
            if process.cmdline()[1:3] == ["-m", module]:
                yield from process.children() if module == ZYGOTE else [process]


def shoot(line: Line, point: Point) -> dict[str, Any] | None:
    """Run the line and kill at the point; its result where it ended well all the same."""
    process = line.start()
    assert process.stderr is not None and process.stdout is not None
    heard = []
    for told in process.stderr:
        heard.append(told)
        if told.startswith(f"{point.step}: running"):
            break
    assert process.poll() is None, "".join(heard)
    flow, deadline = psutil.Process(process.pid), time.monotonic() + PATIENCE_S
    while not (found := list(victims(flow, point.module))) and point.module:
        assert process.poll() is None and time.monotonic() < deadline, f"no process of {point.module} was seen"
        time.sleep(0.02)
    time.sleep(point.delay_s)
    for victim in [*found[:1], *([flow] if point.flow else [])]:
        victim.send_signal(signal.SIGKILL)  # raises where it ended before: the point was missed
    out, _ = process.communicate()
    return json.loads(out) if process.returncode == 0 else None


@pytest.fixture(scope="module")
def undisturbed(
    checkout: Callable[..., Path], child_environment: dict[str, str], prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Line, dict[str, Any]]:
    """A line that ran once without trouble, and its result."""
    root = checkout(tmp_path_factory.mktemp("undisturbed") / "repository")
    line = Line(root, {**child_environment, "PREFECT_API_URL": prefect_api})
    return line, line.run()


@pytest.mark.parametrize("number", range(DRAWS))
@pytest.mark.parametrize("kind", CLASSES)
def test_a_run_that_is_killed_there_ends_with_the_same_weights(
    kind: str, number: int, undisturbed: tuple[Line, dict[str, Any]], checkout: Callable[..., Path], tmp_path: Path
) -> None:
    whole, expected = undisturbed
    root = tmp_path / "repository"
    if kind == "restore":  # what there is to restore was computed before
        shutil.copytree(whole.root, root, symlinks=True)
    else:
        checkout(root)
    line, point = Line(root, whole.environment), Point.draw(kind, number)
    print(f"seed {SEED}: {point}")
    survived = shoot(line, point)
    result = survived or line.run()
    assert result["status"] == "Completed"
    assert survived is None or not point.flow
    assert result["continued"] == point.flow, "a run whose flow was killed is gone on with, not begun anew"
    assert [(one["digest"], one["version"]) for one in result["models"]] == [(one["digest"], one["version"]) for one in expected["models"]]
    assert line.outs(result) == whole.outs(expected)
