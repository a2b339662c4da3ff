"""The stand-in rank program with rows that depend on the level, so that weights tell at which level each step was trained."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import standin_rank
import torch
from torch import nn

from components.data.cursor import Cursor
from components.training.checkpoints.resume import read_cursor
from components.training.guards.rollbacks import leave_out
from components.training.job import Job
from components.training.objective import Targets
from components.training.rank import leave, run_rank


class HeldOut(standin_rank.HeldOut):
    """Buckets are levels."""

    buckets = (0, 1)


class LeveledData:
    """Rows of a step are larger at a higher level; the moves are in the cursor."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor

    def level(self, step: int) -> int:
        return self.cursor.level(step)

    def move(self, step: int, level: int) -> None:
        self.cursor = replace(self.cursor, moves=(*self.cursor.moves, (step, level)))

    def cursor_of(self, step: int) -> dict[str, object]:
        return Cursor(step, 8 * step, self.cursor.skipped, moves=self.cursor.moves).to_dict()

    def batch_of(self, step: int, rank: int, ranks: int, micro: int) -> tuple[tuple[standin_rank.Rows], Targets]:
        (rows,), targets = standin_rank.Data(self.cursor).batch_of(step, rank, ranks, micro)
        return (replace(rows, values=rows.values * (1 + 0.1 * self.level(step))),), targets


def leveled(job: Job) -> tuple[nn.Module, object, object, object, object, object]:
    torch.manual_seed(job.seed)
    cursor = leave_out(read_cursor(job.resume), job.rollbacks)
    data = LeveledData(cursor if cursor.moves else replace(cursor, moves=job.train.progression.moves))
    held_out = HeldOut() if job.train.validation.every_steps else None
    return standin_rank.Network(), data.batch_of, standin_rank.save, data.cursor_of, held_out, data


if __name__ == "__main__":
    (Path(sys.argv[1]) / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    leave(run_rank(Path(sys.argv[1]), leveled))
