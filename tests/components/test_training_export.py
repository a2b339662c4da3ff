"""A committed checkpoint of any ZeRO stage is the model that the end of the training would have exported."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from standin_rank import Network
from torch import nn
from training_world import SHAPES, World, train_params

from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.manifest import CheckpointError
from components.run.failures import FailureClass, StageError
from components.training.checkpoints.export import export_checkpoint
from components.training.checkpoints.tensor_file import write_tensor_file
from components.training.checkpoints.tensors import Described, check_tensors, describe, frozen_digests, raw, write_tensors
from components.training.job import Job

STEP = 4
AVERAGED = {
    "zero-2-averaged": {"zero_stage": 2, "ema_decay": 0.9},
    "zero-3-averaged-bf16": {"zero_stage": 3, "ema_decay": 0.9, "precision": "bf16-mixed"},
    "plain-averaged": {"ranks": 1, "ema_decay": 0.9},
}


def network_of(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Network()


def start(job: Job) -> nn.Module:
    return network_of(job.seed)


@pytest.mark.parametrize("shape", [*SHAPES.values(), *AVERAGED.values()], ids=[*SHAPES, *AVERAGED])
def test_a_checkpoint_exports_what_a_training_that_ends_there_does(shape: dict[str, Any], warm: Mapping[str, str], tmp_path: Path) -> None:
    train = train_params(steps=STEP + 1, freeze=("text.0",), checkpoint_every_steps=STEP, **shape)
    world = World(tmp_path / "work", train, warm)
    assert world.attempt() is None
    checkpoint = CheckpointFolder(world.work / "checkpoints").at(STEP)
    ended = World(tmp_path / "ended", train.model_copy(update={"steps": STEP}), warm)  # goes on from there, and there it ends
    shutil.copytree(world.work / "checkpoints", ended.work / "checkpoints")
    assert ended.attempt() is None
    export_checkpoint(checkpoint.path, tmp_path / "exported", start)
    assert [path.name for path in (tmp_path / "exported").iterdir()] == ["model.safetensors"]
    assert hashlib.sha256((tmp_path / "exported" / "model.safetensors").read_bytes()).hexdigest() == ended.digest != world.digest
    frozen = bytes(raw(start(world.job()).get_parameter("text.0.weight")))
    assert not any(frozen in path.read_bytes() for path in checkpoint.path.rglob("*") if path.is_file()), "frozen parameters are left out"
    with pytest.raises(StageError, match=r"the frozen text\.0\.\w+ is not what the training began with") as error:
        export_checkpoint(checkpoint.path, tmp_path / "other", lambda job: network_of(2))
    assert error.value.failure is FailureClass.BAD_DATA
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("step", [1, 2])
def test_the_file_is_what_the_library_writes(step: int, tmp_path: Path) -> None:
    dtypes = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32]
    dtypes += [torch.float64, torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e5m2, torch.float8_e4m3fn]
    names = ("a.b", "a", "B", 'quoted"', "é")
    tensors = {f"{name}{number}": torch.arange(number * step).to(dtype) for number, dtype in enumerate(dtypes) for name in names}
    tensors["scalar"], tensors["flat"] = torch.tensor(1.0), torch.zeros(3, 0, 2)
    save_file(tensors, tmp_path / "expected", metadata={"format": "pt"})
    described = {name: Described(dtype=str(tensor.dtype)[6:], shape=tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_tensor_file(tmp_path / "found", described, tensors.__getitem__, {"format": "pt"})
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    network = network_of(1)
    whole = describe(network, {})
    with pytest.raises(ValueError, match=r"norm.weight is \[3\], described as \[8\]"):
        write_tensor_file(tmp_path / "file", whole, lambda name: torch.zeros(3 if name == "norm.weight" else whole[name].shape), {})
    frozen, changed = (describe(one, frozen_digests(one.requires_grad_(False))) for one in (network, network_of(2)))
    check_tensors(frozen, frozen, set(), "it")
    reshaped = frozen | {"norm.bias": Described(dtype="float32", shape=(9,))}
    for told, stored, message in (
        (whole, whole.keys(), "decoder.bias is trained in it and not in the network"),
        (changed, (), "the frozen decoder.bias has other values than the training began with"),
        ({name: one for name, one in frozen.items() if name != "norm.bias"}, (), "it lacks norm.bias"),
        (frozen | {"new": frozen["norm.bias"]}, (), "the network has no new"),
        (reshaped, ("norm.bias",), r"norm.bias is \[9\] in it and \[8\] in the network"),
    ):
        with pytest.raises(StageError, match=message) as error:
            check_tensors(frozen, told, stored, "it")
        assert error.value.failure is FailureClass.BAD_CONFIG
    with pytest.raises(StageError, match=r"it is a checkpoint of another model: decoder\.bias is not stored"):
        check_tensors(whole, whole, whole.keys() - {"decoder.bias"}, "it")


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not committed, manifest\.json is missing"):
        export_checkpoint(tmp_path, tmp_path / "exported")
    folder = CheckpointFolder(tmp_path)
    (folder.begin(2) / "engine").write_bytes(b"PK")
    path = folder.commit(2, {})
    with pytest.raises(CheckpointError, match=r"tensors\.json: unreadable; was it written by an older mmfs"):
        export_checkpoint(path, tmp_path / "exported")
    write_tensors(describe(network_of(1), {}), path / "tensors.json")
    with pytest.raises(CheckpointError, match="engine: no weights can be read from it"):
        export_checkpoint(path, tmp_path / "exported")
    torch.save({"state_dict": {"network.norm.weight": torch.ones(8)}}, path / "engine")
    with pytest.raises(CheckpointError, match=r"decoder\.bias is not stored; decoder\.weight is not stored"):
        export_checkpoint(path, tmp_path / "exported")
