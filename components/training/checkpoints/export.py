"""A committed checkpoint as a model: the safetensors, configuration and tokenizer that the end of the training would have exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from components.checkpoints.manifest import ENGINE, CheckpointError, read_manifest
from components.run.failures import FailureClass, StageError
from components.run.filetree import whole_folder
from components.training.checkpoints.stored import stored_averages, stored_weights
from components.training.checkpoints.tensor_file import write_tensor_file
from components.training.checkpoints.tensors import TENSORS_FILE, Described, digest, missing, read_tensors
from components.training.job import JOB_FILE, Job
from components.training.start import start_network
from model.weights import WEIGHTS_FILE

BESIDE = "beside"
"""Folder of a checkpoint: the files of an exported model besides its tensors."""


def export_checkpoint(checkpoint: Path, folder: Path, start: Callable[[Job], nn.Module] = start_network) -> None:
    """Write the weights of a committed checkpoint, plain or of any ZeRO stage, into a folder, which appears whole or not at all. Where
    the training keeps averages of them, those.

    Tensors are read and written one by one. Where the training froze parameters the network it started from is made by `start`, once:
    they are taken from there and must have the digests that the checkpoint tells. Raises CheckpointError for what is not committed or
    lacks tensors, StageError (bad_data) when the frozen parameters are others.
    """
    read_manifest(checkpoint)
    try:
        tensors = read_tensors(checkpoint / TENSORS_FILE)
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{checkpoint / TENSORS_FILE}: unreadable; was it written by an older mmfs? ({error})") from None
    weights = dict(stored_weights(checkpoint / ENGINE))
    if problems := missing(tensors, weights.keys()):
        raise CheckpointError(f"{checkpoint}: {'; '.join(problems)}")
    weights |= stored_averages(checkpoint / ENGINE)
    frozen = {name for name, tensor in tensors.items() if tensor.sha256 is not None}
    network = _start(checkpoint, start).state_dict() if frozen else {}

    def read(name: str) -> Tensor:
        if name in frozen:
            return _frozen(name, tensors[name], network)
        return weights[tensors[name].same_as or name]()

    with whole_folder(folder) as fresh:
        if (checkpoint / BESIDE).is_dir():
            shutil.copytree(checkpoint / BESIDE, fresh, dirs_exist_ok=True)
        write_tensor_file(fresh / WEIGHTS_FILE, tensors, read, {"format": "pt"})


def _start(checkpoint: Path, start: Callable[[Job], nn.Module]) -> nn.Module:
    job = Job.model_validate_json((checkpoint / JOB_FILE).read_text(encoding="utf-8"))
    if job.initial is not None and not job.initial.is_dir():
        message = f"{checkpoint}: frozen parameters come from {job.initial}, which is not here"
        raise StageError(FailureClass.BAD_DATA, message, "fetch the weights that the training started from: `mmfs weights pull`")
    return start(job)


def _frozen(name: str, told: Described, network: dict[str, Tensor]) -> Tensor:
    if name not in network or digest(network[name]) != told.sha256:
        fix = "bring back the weights that the training started from, at the place its job names"
        raise StageError(FailureClass.BAD_DATA, f"the frozen {name} is not what the training began with", fix)
    return network[name]
