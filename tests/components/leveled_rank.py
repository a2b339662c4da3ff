"""The stand-in rank program with rows that depend on the level, so that weights tell at which level each step was trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import standin_rank
import torch
from torch import nn

from components.training.checkpoint import CURSOR_FILE, DATA
from components.training.job import Job
from components.training.objective import Targets
from components.training.rank import leave, run_rank
from components.training.validation import HeldOutBatch


class HeldOut(standin_rank.HeldOut):
    """Buckets are levels."""

    buckets = (0, 1)

    def batches(self, rank: int, ranks: int) -> Iterator[tuple[HeldOutBatch, bool]]:
        return super().batches(rank, ranks)


class Rows:
    """Rows of a step are larger at a higher level; moves are the whole state."""

    def __init__(self, resume: Path | None, moves: tuple[tuple[int, int], ...]) -> None:
        self.moves = dict(moves) if resume is None else dict(json.loads((resume / CURSOR_FILE).read_text())[DATA]["moves"])

    def level(self, step: int) -> int:
        return self.moves[max(first for first in self.moves if first <= step)] if any(first <= step for first in self.moves) else 0

    def move(self, step: int, level: int) -> None:
        self.moves[step] = level

    def cursor(self, step: int) -> dict[str, object]:
        return {"moves": list(self.moves.items())}

    def batch_of(self, step: int, rank: int, ranks: int, micro: int) -> tuple[tuple[standin_rank.Rows], Targets]:
        (rows,), targets = standin_rank.batch_of(step, rank, ranks, micro)
        return (standin_rank.Rows(rows.values * (1 + self.level(step)), rows.pictured, rows.explodes),), targets


def leveled(job: Job) -> tuple[nn.Module, object, object, object, object, object]:
    torch.manual_seed(job.seed)
    rows = Rows(job.resume, job.train.progression.moves)
    held_out = HeldOut() if job.train.validation.every_steps else None
    return standin_rank.Network(), rows.batch_of, standin_rank.save, rows.cursor, held_out, rows


if __name__ == "__main__":
    leave(run_rank(Path(sys.argv[1]), leveled))
