"""The tensors of a network as a checkpoint tells them: names, types, shapes, and digests of those that are frozen and not in it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from components.params import Frozen
from components.run.failures import FailureClass, StageError

TENSORS_FILE = "tensors.json"
_SHOWN = 3


class Described(Frozen):
    """One tensor. `dtype` is torch's word without `torch.`; `sha256` is that of a frozen parameter as training found it."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str | None = None
    same_as: str | None = None
    """The name under which a tied tensor is stored."""


_TENSORS = TypeAdapter(dict[str, Described])


def describe(network: nn.Module, digests: Mapping[str, str]) -> dict[str, Described]:
    """By name, what the network's state holds now. `digests` are those of frozen parameters. Parameters that ZeRO-3 shares out are told
    whole."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    described = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        shape = tuple(getattr(parameters.get(name, tensor), "ds_shape", tensor.shape))
        told = first.setdefault(id(tensor), name)
        described[name] = Described(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=shape,
            sha256=digests.get(name),
            same_as=None if told == name else told,
        )
    return described


def frozen_digests(network: nn.Module) -> dict[str, str]:
    """By name, the sha256 of the bytes of every frozen parameter."""
    frozen = {name: parameter for name, parameter in network.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # hashing holds no lock of the interpreter
        return dict(zip(frozen, threads.map(digest, frozen.values()), strict=True))


def digest(tensor: Tensor) -> str:
    """The sha256 of a tensor's bytes."""
    return hashlib.sha256(raw(tensor)).hexdigest()


def raw(tensor: Tensor) -> memoryview:
    """A tensor's bytes in the order of its indices; copied only where it is not on the CPU or not contiguous."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_tensors(described: Mapping[str, Described], path: Path) -> None:
    """Write the description of a network."""
    path.write_bytes(_TENSORS.dump_json(dict(described), exclude_none=True))


def read_tensors(path: Path) -> dict[str, Described]:
    """Inverse of `write_tensors`. Raises pydantic's ValidationError or OSError."""
    return _TENSORS.validate_json(path.read_bytes())


def check_tensors(own: Mapping[str, Described], told: Mapping[str, Described], stored: Collection[str], where: str) -> None:
    """Raises StageError (bad_config) unless a checkpoint fits a network: the same names and shapes, exactly the frozen ones not stored,
    and those the same bytes as when it was written."""
    problems = [f"it lacks {name}" for name in sorted(own.keys() - told.keys())]
    problems += [f"the network has no {name}" for name in sorted(told.keys() - own.keys())]
    for name in sorted(own.keys() & told.keys()):
        mine, its = own[name], told[name]
        if mine.shape != its.shape:
            problems.append(f"{name} is {list(its.shape)} in it and {list(mine.shape)} in the network")
        elif (mine.sha256 is None) != (its.sha256 is None):
            problems.append(f"{name} is {'trained' if its.sha256 is None else 'frozen'} in it and not in the network")
        elif mine.sha256 != its.sha256:
            problems.append(f"the frozen {name} has other values than the training began with")
    problems += missing(told, stored)
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else "")
        fix = "give the training the model and the initial weights that it began with"
        raise StageError(FailureClass.BAD_CONFIG, f"{where} is a checkpoint of another model: {shown}", fix)


def missing(told: Mapping[str, Described], stored: Collection[str]) -> list[str]:
    """What ought to be stored and is not."""
    wanted = {name for name, tensor in told.items() if tensor.sha256 is None and tensor.same_as is None}
    return [f"{name} is not stored" for name in sorted(wanted - set(stored))]
