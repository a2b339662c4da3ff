"""The rank program: `python -m components.training.rank WORK` trains what WORK/job.json asks for.

Exits with 0, or with the exit code of its failure class after leaving word in WORK/failure-RANK.json.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from components.launch.imports import heavy_imports
from components.run.failures import FailureClass, StageError
from components.training.diagnose import diagnose
from components.training.job import Job, read_job, write_failure

if TYPE_CHECKING:
    from torch import nn

    from components.training.fit import BatchOf, Save

ONEDNN_PRIMITIVES = "16384"
"""Compiled operations oneDNN keeps. The number of pictures in a step is free, each number needs its own, and the 1,024 that are usual are
soon used up: `tiny` then compiles for 17 ms a step of 270, and for 1 ms with these, which take 40 MB."""
Parts = Callable[[Job], "tuple[nn.Module, BatchOf, Save, *tuple[Any, ...]]"]
"""Builds what a job trains: the network, its batches, how its weights are written; then, where there is such, where its data stand before
a step (CursorOf), held-out rows (HeldOut), and what draws rows by levels (Levels)."""


def run_rank(work: Path, parts: Parts, train: Callable[..., None] | None = None) -> int:
    """Train as the job says, by `fit` or what is given in its place, and return the exit status."""
    rank = int(os.environ["RANK"])
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # what a supervisor asks of a rank that hangs; the answer is in its log
    try:
        job = read_job(work)
        prepare_device(job)
        with heavy_imports():
            from components.training.fit import fit  # Lightning and DeepSpeed read what was set above

        (train or fit)(job, *parts(job))
    except BaseException as error:
        traceback.print_exc()
        failure = diagnose(error)
        write_failure(work, rank, failure)
        return failure.failure.exit_code
    return 0


def prepare_device(job: Job) -> None:
    """Fix threads, and in deterministic mode algorithms, so that a rerun sums in the same order.

    Raises StageError (bad_config) when there are fewer devices than ranks.
    """
    # DeepSpeed's autotuner would import it, which takes five seconds; tracking is the supervisor's.
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    os.environ["DS_ACCELERATOR"] = job.device
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # DeepSpeed asks torch.load to unpickle anything
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // job.train.ranks))
    if job.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if job.device == "cpu":
        compile_nothing()
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_PRIMITIVES)
    elif torch.cuda.device_count() < job.train.ranks:
        message = f"{job.stage} asks for {job.train.ranks} ranks, this machine has {torch.cuda.device_count()} GPUs"
        raise StageError(FailureClass.BAD_CONFIG, message, "set `ranks` of the stage in params.yaml to the number of GPUs")


def compile_nothing() -> None:
    """Leave functions marked for torch.compile as they are: no compiler is needed, and importing Inductor would take seconds.

    DeepSpeed marks the Muon optimizer, which it imports although it is not used.
    """
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    torch.compiler.set_default_backend(lambda graph, inputs: graph.forward)


def leave(status: int) -> NoReturn:
    """End the process now: the interpreter's own end would wait for the peers of a broken process group."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    with heavy_imports():
        from components.training.parts import mm_interleaved

    leave(run_rank(Path(sys.argv[1]), mm_interleaved))
