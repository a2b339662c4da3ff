"""A model's tensors in a folder: safetensors, whole or in shards under the index that Hugging Face uses. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Public checkpoints hold this fixed table; newer libraries do not save it.
OPTIONAL_KEYS = frozenset({"visual_tokenizer.encoder.vision_model.embeddings.position_ids"})
_SHOWN = 5


class WeightsError(ValueError):
    """Weights cannot be used for a model; the message names the tensors or the file."""


def write_weights(shards: Iterable[Mapping[str, Tensor]], count: int, folder: Path) -> None:
    """Write `count` shards, one in memory at a time, into an existing folder; a single one gets no index."""
    weight_map: dict[str, str] = {}
    size = number = 0
    for shard in shards:
        number += 1  # noqa: SIM113 -- enumerate holds the last one while the next is read
        name = WEIGHTS_FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
        tensors = _apart(shard)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        size += sum(tensor.nbytes for tensor in tensors.values())
        del shard, tensors  # before the next is read
    if count > 1:
        index: dict[str, Any] = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _apart(shard: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own, as safetensors wants them: what is tied is written twice."""
    apart: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, tensor in shard.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        apart[key] = tensor.clone() if place in storages else tensor
        storages.add(place)
    return apart


def weights_files(folder: Path, stem: str = "model") -> list[Path]:
    """The files that hold a folder's tensors. `stem` is what their library calls them.

    Raises WeightsError when the index is broken or names a file that is not there.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        return [folder / f"{stem}.safetensors"]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index} is no index of weights ({error!r}); fetch the weights again") from None
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise WeightsError(f"{index} names {name!r}, which is not in {folder}; fetch the weights again")
    return [folder / name for name in names]


def read_weights(folder: Path) -> Iterator[dict[str, Tensor]]:
    """The tensors of a folder, a shard at a time. Raises WeightsError for another format, OSError when a file cannot be read."""
    for path in weights_files(folder):
        try:
            yield load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path} is no valid safetensors file ({error}); fetch the weights again") from None


def load_weights(model: nn.Module, shards: Iterable[Mapping[str, Tensor]]) -> None:
    """Copy tensors into a model, strictly. Raises WeightsError naming what is missing, unknown or of another shape."""
    own = model.state_dict()
    given: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        given |= {name: tuple(tensor.shape) for name, tensor in shard.items()}
        _copy(shard, own)
        del shard  # before the next is read
    check_fit({name: tuple(tensor.shape) for name, tensor in own.items()}, given)


@torch.no_grad()
def _copy(shard: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """What fits; a function of its own, so that no tensor outlives its shard."""
    for name, tensor in shard.items():
        if name in own and own[name].shape == tensor.shape:
            own[name].copy_(tensor)


def check_new(folder: Path) -> None:
    """Raises WeightsError when a folder to be written is there already."""
    if folder.exists():
        raise WeightsError(f"{folder} exists; name a folder that does not")


def check_fit(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> None:
    """Raises WeightsError unless both hold the same names and shapes; a table that newer libraries do not save may be there."""
    offered = {name for name in given if name in wanted or name not in OPTIONAL_KEYS}
    problems = [f"missing {name}" for name in wanted.keys() - offered]
    problems += [f"unknown {name}" for name in offered - wanted.keys()]
    problems += [
        f"{name} is {given[name]}, the model has {wanted[name]}" for name in wanted.keys() & offered if wanted[name] != given[name]
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:_SHOWN])
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise WeightsError(f"{len(problems)} tensors do not fit the configuration: {shown}{more}")
