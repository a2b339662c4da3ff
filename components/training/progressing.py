"""Levels while a stage trains: held-out means become moves, moves become rows of another level, and each is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from components.progression.competence import Competence, Move
from components.progression_params import ProgressionParams
from components.training.guards.journal import Journal, read_journal


class Levels(Protocol):
    """What draws rows by levels; steps are counted from 0."""

    def level(self, step: int) -> int:
        """The level of a step's rows."""
        ...

    def move(self, step: int, level: int) -> None:
        """Draw the rows from a step on at another level."""
        ...


class Progressing(Callback):
    """Hears every validation and moves as the controller says; every rank finds the same, rank 0 writes it into the journal.

    A move takes effect one step after the values that decided it: the rows of the coming step are on their way by then. A move that an
    earlier attempt has made and told is made again and not told again.
    """

    def __init__(self, params: ProgressionParams, levels: Levels, journal: Journal | None) -> None:
        """`journal`: only on rank 0."""
        self.competence = Competence(params)
        self._params, self._levels, self._journal = params, levels, journal
        self._seen = 0

    def hear(self, step: int, means: Mapping[str, float]) -> None:
        """The held-out means after a step, the same on every rank."""
        if self._params.mode == "competence" and (move := self.competence.judge(step, means)) is not None:
            self._levels.move(step + 1, move.level)
            self._tell(move)

    def each_step(self, step: int) -> dict[str, list[float]]:
        """What is logged after a step: the level of its rows."""
        return {"progression/level": [float(self._levels.level(step - 1))]}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._seen = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        """Tell of a move of a fixed schedule that takes effect now."""
        step = trainer.global_step
        if self._params.mode != "fixed" or step == self._seen:
            return
        self._seen = step
        before, level = self._levels.level(step - 1), self._levels.level(step)
        if level != before:
            self._tell(Move(step, before, level, {}))

    def _tell(self, move: Move) -> None:
        if self._journal is None:
            return
        values = {"before": move.before, "level": move.level, "because": dict(move.values)}
        told, _ = read_journal(self._journal.path)
        if not any((entry.kind, entry.step, entry.values) == (move.kind, move.step, values) for entry in told):
            self._journal.add(move.kind, move.step, **values)


def undecided(start: int, steps: int, every: int) -> Iterator[range]:
    """Steps whose rows may be made ahead: up to the one after which held-out values can change what follows. All where `every` is 0."""
    while start < steps:
        end = min(steps, -(-start // every) * every + 1) if every else steps
        yield range(start, end)
        start = end
