"""The rank program: `python -m components.training.rank WORK` trains what WORK/job.json asks for.

Exits with 0, or with the exit code of its failure class after leaving word in WORK/failure-RANK.json.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from components.training.diagnose import diagnose
from components.training.job import Job, read_job, write_failure

if TYPE_CHECKING:
    from torch import nn

    from components.training.fit import BatchOf, Save

Parts = Callable[[Job], "tuple[nn.Module, BatchOf, Save]"]
"""Builds what a job trains: the network, its batches, and how its weights are written."""


def run_rank(work: Path, parts: Parts) -> int:
    """Train as the job says and return the exit status."""
    rank = int(os.environ["RANK"])
    try:
        job = read_job(work)
        device = "cuda" if torch.cuda.is_available() and torch.cuda.device_count() >= job.train.ranks else "cpu"
        os.environ["DS_ACCELERATOR"] = device
        set_determinism(job.deterministic, job.train.ranks)
        from components.training.fit import fit  # Lightning and DeepSpeed read the variables set above

        network, batch_of, save = parts(job)
        fit(job, network, batch_of, save, device)
    except BaseException as error:
        traceback.print_exc()
        failure = diagnose(error)
        write_failure(work, rank, failure)
        return failure.failure.exit_code
    return 0


def set_determinism(deterministic: bool, ranks: int) -> None:
    """Fix how many threads compute, and in deterministic mode the algorithms, so that a rerun sums in the same order."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        torch.utils.deterministic.fill_uninitialized_memory = False


def mm_interleaved(job: Job) -> tuple[nn.Module, BatchOf, Save]:
    """The platform's own model and data."""
    raise NotImplementedError


if __name__ == "__main__":
    status = run_rank(Path(sys.argv[1]), mm_interleaved)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the interpreter's own end would wait for the peers of a broken process group
