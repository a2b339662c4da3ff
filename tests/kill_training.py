"""Training of the stand-in network that is killed from outside at drawn points; shared by `make test` and `make test-faults`."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.checkpoints.manifest import COMPLETE
from components.params import TrainParams
from components.run.failures import FailureClass
from components.tracking.spool import read_points
from components.training.guards.journal import read_journal
from components.training.guards.watchdog import Beat, pulse_file

TESTS = Path(__file__).parent
CLASSES = ("one rank", "all ranks", "SIGTERM", "power cut", "supervisor")
"""SIGKILL of a rank, of all; SIGTERM to the supervisor; SIGKILL of everything while a checkpoint is being written; of the supervisor."""
CURVE = ("loss", "text_loss", "image_loss", "lr", "grad_norm")
"""What a point says of the training itself, and not of its speed."""
STEPS, EVERY = 24, 3
_STEP_S = 0.03
_MOST_FILES = 9
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Point:
    """Shoot `delay_s` after rank 0 begins step `step` (0: while the ranks are set up); a power cut once a checkpoint has `files` files."""

    kind: str
    step: int
    rank: int
    delay_s: float
    files: int

    @classmethod
    def draw(cls, kind: str, ranks: int, seed: str, first: int = 0, end: int = STEPS - EVERY) -> Point:
        """A point of a class in the steps from `first` to before `end`."""
        moments = random.Random(f"{seed} {kind} {first}")
        return cls(
            kind, moments.randrange(first, end), moments.randrange(ranks), moments.uniform(0, _STEP_S), moments.randint(0, _MOST_FILES)
        )


@dataclass(frozen=True)
class Ended:
    """What a training leaves: its weights, its curve, and how it came there."""

    digest: str
    curve: list[tuple[int, dict[str, float]]]
    commands: int
    restarts: int
    files: list[int]
    """At each power cut, the files of the checkpoint under way."""


@dataclass(frozen=True)
class Victim:
    """One training in a work folder, under a supervisor that is a process of its own."""

    work: Path
    shape: Mapping[str, Any]
    warm: Mapping[str, str]

    def train(self, points: Sequence[Point] = ()) -> Ended:
        """Train to the end through all points, which rise; the command is given again where its process was stopped."""
        supervisor, commands, files = self._start(), 1, []
        try:
            for point in points:
                files += self._shoot(supervisor, point)
                if point.kind in ("SIGTERM", "power cut", "supervisor"):
                    status = supervisor.wait(_PATIENCE_S)
                    expected = FailureClass.PREEMPTED.exit_code if point.kind == "SIGTERM" else -signal.SIGKILL
                    assert status == expected, f"{point}: status {status}\n{self._log}"
                    supervisor, commands = self._start(), commands + 1
            assert supervisor.wait(_PATIENCE_S) == 0, self._log
        finally:
            supervisor.kill()
        weights = (self.work / "export" / "model.safetensors").read_bytes()
        restarts = sum(entry.kind == "restart" for entry in read_journal(self.work / "events.jsonl")[0])
        logged, _ = read_points(self.work / "points.jsonl")
        curve = [(one["step"], {name: one["metrics"][name] for name in CURVE}) for one in logged]
        return Ended(hashlib.sha256(weights).hexdigest(), curve, commands, restarts, files)

    def _start(self) -> subprocess.Popen[bytes]:
        self.work.mkdir(parents=True, exist_ok=True)
        self._forget_ranks()
        mixture: dict[str, Any] = {
            "mixture": {"caption": 1},
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "row_tokens": 16,
            "rows_per_step": 8,
        }
        values = mixture | {"steps": STEPS, "checkpoint_every_steps": EVERY, "log_every_steps": 4} | dict(self.shape)
        python_path = os.pathsep.join(map(str, (TESTS.parent, TESTS / "components")))
        own = {"PYTHONPATH": python_path, "TRAIN": TrainParams.model_validate(values).model_dump_json(), "STEP_S": str(_STEP_S)}
        with (self.work / "supervisor.log").open("ab") as log:
            command = [sys.executable, "-m", "standin_supervisor", str(self.work)]
            return subprocess.Popen(command, env={**os.environ, **self.warm, **own}, stdout=log, stderr=log)

    def _shoot(self, supervisor: subprocess.Popen[bytes], point: Point) -> list[int]:
        """Wait for the point and shoot; at a power cut the number of files that the checkpoint under way had."""
        ranks = int(self.shape.get("ranks", 2))
        self._until(supervisor, point, lambda: len(list(self.work.glob("pid-*"))) == ranks)
        self._until(supervisor, point, lambda: Beat.read(pulse_file(self.work, 0)).step >= point.step)
        staging = self.work / "checkpoints"
        if point.kind == "power cut":
            self._until(supervisor, point, lambda: any(_far(folder, point.files) for folder in staging.glob("*.partial")))
        else:
            time.sleep(point.delay_s)
        pids = [int((self.work / f"pid-{rank}").read_text()) for rank in range(ranks)]
        victims = {
            "one rank": [pids[point.rank]],
            "all ranks": pids,
            "SIGTERM": [supervisor.pid],
            "power cut": [*pids, supervisor.pid],
            "supervisor": [supervisor.pid],
        }[point.kind]
        for pid in victims:
            os.kill(pid, signal.SIGTERM if point.kind == "SIGTERM" else signal.SIGKILL)  # raises where the point was missed
        if point.kind in ("one rank", "all ranks"):
            self._forget_ranks()
        cut = staging.glob("*.partial") if point.kind == "power cut" else ()
        return [_files(folder) for folder in cut]

    def _forget_ranks(self) -> None:
        """What the next point waits for is told by the ranks started after this one."""
        for left in (*self.work.glob("pid-*"), *pulse_file(self.work, 0).parent.glob("rank-*")):
            left.unlink()

    def _until(self, supervisor: subprocess.Popen[bytes], point: Point, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not reached():
            assert supervisor.poll() is None, f"{point}: the training ended before it\n{self._log}"
            assert time.monotonic() < deadline, f"{point}: not reached\n{self._log}"
            time.sleep(0.001)

    @property
    def _log(self) -> str:
        return (self.work / "supervisor.log").read_text(errors="replace")


def _files(folder: Path) -> int:
    """Files below a folder in which others are at work."""
    try:
        return sum(file.is_file() for file in folder.rglob("*"))
    except FileNotFoundError:
        return 0


def _far(staging: Path, files: int) -> bool:
    """Whether a checkpoint has so many files, or all that it gets from its ranks."""
    return _files(staging) >= files or (staging / COMPLETE).exists()


def told(point: Point) -> str:
    """A point in words."""
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in asdict(point).items())
