"""Where a training goes on: the newest checkpoint that no rollback has taken back, and how its data stood."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.checkpoints.folder import CheckpointFolder, Refusal
from components.checkpoints.manifest import CURSOR_FILE, DATA, Checkpoint
from components.data.cursor import Cursor
from components.data.documents import CorpusError
from components.training.guards.rollbacks import Rollback, good_until, made_under


def last_good(folder: CheckpointFolder, rollbacks: Sequence[Rollback], at_most: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint that holds no step which was rolled back since it was written, and why newer ones were passed over."""
    return folder.latest(at_most, refuse_rolled_back(rollbacks))


def refuse_rolled_back(rollbacks: Sequence[Rollback]) -> Refusal:
    """Refuses checkpoints that hold a step which was rolled back since they were written."""

    def refuse(checkpoint: Checkpoint) -> str | None:
        limit = good_until(rollbacks, made_under(read_states(checkpoint.path)))
        return None if limit is None or checkpoint.step <= limit else f"steps after {limit} were rolled back since it was written"

    return refuse


def read_states(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint keeps besides tensors, by name."""
    states: dict[str, Any] = json.loads((checkpoint / CURSOR_FILE).read_text(encoding="utf-8"))
    return states


def step_of(checkpoint: Path | None) -> int:
    """The step after which a checkpoint was written; 0 at the start."""
    return int(read_states(checkpoint)["step"]) if checkpoint else 0


def read_cursor(checkpoint: Path | None) -> Cursor:
    """How the data stood at a checkpoint, or at the start. Raises CorpusError for a checkpoint that does not say it."""
    if checkpoint is None:
        return Cursor()
    states = read_states(checkpoint)
    if DATA not in states:
        raise CorpusError(f"{checkpoint}: this checkpoint does not say where its data stood; start the training again")
    return Cursor.from_dict(states[DATA])
