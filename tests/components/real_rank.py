"""The rank program itself, which can be told to die before a step."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from standin_rank import kill_here

from components.training.job import Job
from components.training.objective import Targets
from components.training.parts import mm_interleaved
from components.training.rank import leave, run_rank


def real(job: Job) -> Any:
    network, batch_of, save, *rest = mm_interleaved(job)

    def deadly(step: int, rank: int, ranks: int, micro: int) -> tuple[tuple[Any, ...], Targets]:
        if told := os.environ.get("KILL_AT"):
            kill_here(told, step)
        return batch_of(step, rank, ranks, micro)

    return network, deadly, save, *rest


if __name__ == "__main__":
    leave(run_rank(Path(sys.argv[1]), real))
