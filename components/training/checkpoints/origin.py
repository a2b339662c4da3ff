"""What rank 0 notes in every checkpoint besides training state: the job, its tensors, the curve, and the files of an exported model."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from components.checkpoints.manifest import ENGINE
from components.run.failures import FailureClass, StageError
from components.training.checkpoints.export import BESIDE
from components.training.checkpoints.identity import info_of
from components.training.checkpoints.stored import stored_weights
from components.training.checkpoints.tensors import TENSORS_FILE, check_tensors, describe, frozen_digests, read_tensors, write_tensors
from components.training.job import JOB_FILE, POINTS_FILE, Job
from components.training.start import write_beside


class Origin:
    """Made before the first step, when frozen parameters lie whole in the network. `info` is for the manifest."""

    def __init__(self, job: Job, network: nn.Module) -> None:
        self._job = job
        self._network = network
        self._digests = frozen_digests(network)
        self.info = info_of(job)

    def check(self, checkpoint: Path) -> None:
        """Raises StageError (bad_config) unless the checkpoint is of this network, with the same frozen parameters and all others stored.

        CheckpointError when its weights cannot be read.
        """
        path = checkpoint / TENSORS_FILE
        if not path.exists():
            fix = "go on with the mmfs that wrote it, or remove the checkpoints and train again"
            raise StageError(FailureClass.BAD_CONFIG, f"{checkpoint} does not describe its tensors: an older mmfs wrote it", fix)
        own = describe(self._network, self._digests)
        check_tensors(own, read_tensors(path), stored_weights(checkpoint / ENGINE).keys(), str(checkpoint))

    def write(self, staging: Path) -> None:
        """Write the notes into a checkpoint that is being written."""
        (staging / JOB_FILE).write_text(self._job.model_dump_json(indent=1), encoding="utf-8")
        write_tensors(describe(self._network, self._digests), staging / TENSORS_FILE)
        write_beside(self._network, self._job, staging / BESIDE)
        if self._job.points.exists():
            shutil.copyfile(self._job.points, staging / POINTS_FILE)
