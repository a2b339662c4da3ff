"""How a training is shared out, and a checkpoint for another share than the one it was written by. Imports no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from components.checkpoints.manifest import Checkpoint
from components.params import TrainParams
from components.run.failures import FailureClass, StageError

CONVERTED = "converted"
"""In the work folder: checkpoints as ranks go on from them that did not write them."""
_CONVERTER = "components.training.checkpoints.universal"


@dataclass(frozen=True)
class Shape:
    """Ranks, ZeRO stage (0 is one process without DeepSpeed), micro-batches of a rank in an optimizer step."""

    ranks: int
    zero_stage: int
    micro_batches: int

    @classmethod
    def of(cls, train: TrainParams) -> Shape:
        """The share of a stage's parameters."""
        return cls(train.ranks, train.sharded_stage, train.micro_batches(train.ranks))


def fitted(checkpoint: Checkpoint, train: TrainParams, seed: int, folder: Path) -> Path:
    """Where ranks of `train` go on from the checkpoint: itself where they are the ones that wrote it, else a conversion below `folder`.

    The conversion is a process of its own and is made once. Raises StageError (infrastructure) when it fails.
    """
    wanted, info = Shape.of(train), checkpoint.info
    written = Shape(info["ranks"], info["zero_stage"], info.get("micro_batches", wanted.micro_batches))
    if written == wanted:
        return checkpoint.path
    made = folder / f"{checkpoint.path.name}-for-{wanted.ranks}-{wanted.zero_stage}-{wanted.micro_batches}"
    if not made.is_dir():
        command = [sys.executable, "-m", _CONVERTER, str(checkpoint.path), str(made), json.dumps(asdict(wanted)), str(seed)]
        done = subprocess.run(command, env={**os.environ, "DS_ACCELERATOR": "cpu"}, capture_output=True, text=True, check=False)
        if done.returncode:
            told = (done.stderr.strip() or done.stdout.strip()).rsplit("\n", 1)[-1]
            message = f"{checkpoint.path} could not be converted for {wanted.ranks} ranks at ZeRO stage {wanted.zero_stage}: {told}"
            raise StageError(FailureClass.INFRASTRUCTURE, message, "free disk space, or go on with the ranks that wrote it")
    return made
