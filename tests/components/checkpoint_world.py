"""What ranks, committers and places do to a checkpoint, without ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from components.checkpoints.files import Files
from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.identity import IDENTITY
from components.checkpoints.second import SecondPlace

IDENTITIES = {"schedule": {"steps": 8, "learning_rate": 0.1}}
INFO = {"ranks": 2, IDENTITY: IDENTITIES}
PATIENCE_S = 60.0


def written(folder: CheckpointFolder, step: int, files: Files = Files()) -> None:
    """What the ranks do: files of their own, then the word that they are complete."""
    staging = folder.begin(step)
    files.make(staging / "engine" / "checkpoint")
    for name in ("engine/checkpoint/rank-0.pt", "engine/checkpoint/rank-1.pt", "cursor.json"):
        files.write(staging / name, bytes([step]) * 1000)
    folder.complete(step, INFO)


class Told:
    """Keeps what a committer tells."""

    def __init__(self) -> None:
        self.actions: list[tuple[str, int, dict[str, Any]]] = []

    def __call__(self, kind: str, step: int, **values: Any) -> None:
        self.actions.append((kind, step, values))

    @property
    def kinds(self) -> list[tuple[str, int]]:
        return [(kind, step) for kind, step, _ in self.actions]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def save(folder: CheckpointFolder, second: SecondPlace, step: int, files: Files = Files()) -> None:
    """One checkpoint from its first file to the second place, with all that is dropped for it."""
    written(folder, step, files)
    path = folder.commit(step)
    second.send(path, step)
    second.retain(folder.retention, folder.pins(), {}, step)
