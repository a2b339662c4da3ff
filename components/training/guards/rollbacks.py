"""What was decided about bad steps: which rows are left out, and where the training went on. The supervisor decides, ranks obey."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from components.data.cursor import Cursor
from components.frozen import Frozen
from components.guard_params import GuardParams
from components.run.failures import FailureClass, StageError
from components.run.filetree import write_whole
from components.training.guards.bad_steps import BadSteps

DECISIONS_FILE = "rollbacks.json"
GUARD = "guard"
"""What the guard keeps in a checkpoint's cursor file."""


class Rollback(Frozen):
    """One decision. Steps count from 1. Everything in it follows from the training alone, not from which checkpoints there were."""

    cause: FailureClass
    first: int
    """The first bad step."""
    last: int
    """The one after which it was found."""
    begin: int
    """The first step whose rows are left out, with those up to `last`."""
    draws: tuple[int, int]
    """These rows as draws of the mixture, the first and the one after the last."""

    @property
    def good_until(self) -> int:
        """A checkpoint of an earlier attempt is good up to this step."""
        return self.begin - 1


class Decisions(Frozen):
    """All rollbacks of a training, in order. `settled`: how many of them have been carried out."""

    version: Literal[1] = 1
    rollbacks: tuple[Rollback, ...] = ()
    settled: int = 0

    def write(self, work: Path) -> None:
        """Into the work folder, whole."""
        write_whole(work / DECISIONS_FILE, self.model_dump_json(indent=1))


def read_decisions(work: Path) -> Decisions:
    """What was decided in a work folder so far. Raises StageError (bad_config) for another version, or for a damaged file."""
    path = work / DECISIONS_FILE
    try:
        return Decisions.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Decisions()
    except (ValidationError, UnicodeDecodeError) as error:
        message = f"{path} says which data were left out, and cannot be read: {error}"
        raise StageError(FailureClass.BAD_CONFIG, message, "go on with the mmfs that wrote it, or remove the work folder") from None


def decide(bad: BadSteps, cursor: Cursor, earlier: Sequence[Rollback], rows_per_step: int, guard: GuardParams) -> Rollback:
    """The rollback that answers `bad`. `cursor`: where the data stood at some checkpoint before, or at the start.

    Raises StageError in the class of `bad` when the training was rolled back often enough.
    """
    if len(earlier) >= guard.max_rollbacks:
        often = f"after {len(earlier)} rollbacks" if earlier else "and guard.max_rollbacks is 0"
        fix = f"{bad.fix}; guard.max_rollbacks allows more rollbacks" if bad.fix else "guard.max_rollbacks allows more rollbacks"
        raise StageError(bad.failure, f"{bad.message} ({often})", fix)
    begin = max(1, bad.first - guard.margin_steps)
    here = leave_out(cursor, earlier)
    rows = [cursor.rows + (step - cursor.step) * rows_per_step for step in (begin - 1, bad.last)]
    draws = here.draw(rows[0]), here.draw(rows[1] - 1) + 1
    return Rollback(cause=bad.failure, first=bad.first, last=bad.last, begin=begin, draws=draws)


def leave_out(cursor: Cursor, rollbacks: Iterable[Rollback]) -> Cursor:
    """The cursor without the rows of some rollbacks; those that it leaves out already change nothing."""
    for rollback in rollbacks:
        cursor = cursor.leaving_out(*rollback.draws)
    return cursor


def good_until(rollbacks: Sequence[Rollback], made_under: int = 0) -> int | None:
    """The last step at which a checkpoint can be gone on from that was written when `made_under` rollbacks had been decided."""
    return min((rollback.good_until for rollback in rollbacks[made_under:]), default=None)


def made_under(cursor_file: Mapping[str, Any]) -> int:
    """How many rollbacks had been decided when a checkpoint was written."""
    return int(cursor_file.get(GUARD, {}).get("rollbacks", 0))


def learning_rate_factor(rollbacks: Iterable[Rollback], guard: GuardParams, step: int) -> float:
    """What the learning rate of a step (from 1) is multiplied by."""
    factor = 1.0
    for rollback in rollbacks:
        if rollback.begin <= step < rollback.begin + guard.cool_down_steps:
            factor *= guard.learning_rate_factor
    return factor
