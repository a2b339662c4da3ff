"""The weights in a checkpoint by the network's names, read one at a time: of a plain training and of ZeRO 1, 2 and 3.

Files are mapped and not loaded, and nothing is unpickled but tensors and the few values that the engine writes beside them; neither
Lightning nor DeepSpeed is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from components.checkpoints.manifest import CheckpointError
from components.training.averages import AVERAGE
from components.training.checkpoints.universal_form import BUFFERS, TAG, is_universal, stored

NETWORK = "network."
"""What the Lightning module puts before the network's names."""
Weights = Mapping[str, Callable[[], Tensor]]
_WHOLE, _FIRST = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"
"""Files of ZeRO 1 and 2, where the weights are whole, and of ZeRO 3, where each rank has its own."""


class _Fragment(SimpleNamespace):
    """Stands for DeepSpeed's `fragment_address`: `numel` numbers from `start` on."""


class _Scaler(SimpleNamespace):
    """Stands for DeepSpeed's loss scalers, of which nothing is read."""


_STANDINS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Fragment, "deepspeed.utils.tensor_fragment.fragment_address"),
    (_Scaler, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Scaler, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
]


def stored_weights(engine: Path) -> Weights:
    """Reads each stored weight when it is called. Raises CheckpointError for files that are no checkpoint of ours."""
    return _read(engine, _weights)


def stored_averages(engine: Path) -> Weights:
    """The same of the weights' moving averages; none where the optimizer keeps none."""
    return _read(engine, _averages)


def _read(engine: Path, how: Callable[[Path], Weights]) -> Weights:
    try:
        return how(engine)
    except (OSError, KeyError, IndexError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{engine}: no weights can be read from it ({error})") from None


def _weights(engine: Path) -> Weights:
    if engine.is_file():
        return _by_name(_load(engine)["state_dict"])
    if is_universal(engine):
        return {**_by_name(_load(engine / BUFFERS)), **_of_files(stored(engine))}
    folder = engine / TAG
    if (whole := folder / _WHOLE).exists():
        return _by_name(_load(whole)["module"])
    first = _load(folder / _FIRST)
    groups = [state["fp32_flat_groups"] for state in _optimizers(folder)]
    return {**_by_name({name: first["module"][name] for name in first["buffer_names"]}), **_shared_out(first["param_shapes"], groups)}


def _averages(engine: Path) -> Weights:
    if engine.is_file():
        return _averages_of_one(_load(engine)["optimizer_states"])
    if is_universal(engine):
        files = {name: file.with_name(f"{AVERAGE}.pt") for name, file in stored(engine).items()}
        return _of_files({name: file for name, file in files.items() if file.exists()})
    folder = engine / TAG
    if (whole := folder / _WHOLE).exists():
        return _in_fragments(_load(whole)["module"], _optimizers(folder))
    states = [state["optimizer_state_dict"]["state"].values() for state in _optimizers(folder)]
    if not all(AVERAGE in group for rank in states for group in rank):
        return {}
    return _shared_out(_load(folder / _FIRST)["param_shapes"], [[group[AVERAGE] for group in rank] for rank in states])


def _optimizers(folder: Path) -> list[dict[str, Any]]:
    """What each rank says of its part of the optimizer."""
    return [_load(path)["optimizer_state_dict"] for path in sorted(folder.glob("*_optim_states.pt"), key=_rank)]


def _load(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals(_STANDINS):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _by_name(tensors: Mapping[str, Tensor]) -> Weights:
    return {name.removeprefix(NETWORK): partial(_itself, tensor) for name, tensor in tensors.items()}


def _of_files(files: Mapping[str, Path]) -> Weights:
    return {name.removeprefix(NETWORK): partial(_of_file, file) for name, file in files.items()}


def _of_file(file: Path) -> Tensor:
    tensor: Tensor = _load(file)["param"]
    return tensor


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _averages_of_one(optimizers: Sequence[Mapping[str, Any]]) -> Weights:
    [held] = optimizers
    numbers = {name: number for group in held["param_groups"] for name, number in zip(group["parameters"], group["params"], strict=True)}
    return {name: partial(_itself, held["state"][number][AVERAGE]) for name, number in numbers.items() if AVERAGE in held["state"][number]}


def _in_fragments(module: Mapping[str, Tensor], ranks: Sequence[Mapping[str, Any]]) -> Weights:
    """ZeRO-1 and 2: of each flat group every rank has a part, which may begin and end within a parameter."""
    fragments: dict[str, list[Tensor]] = {}
    for rank in ranks:
        for group, places in zip(rank["base_optimizer_state"]["state"].values(), rank["param_slice_mappings"], strict=True):
            for name, place in places.items() if AVERAGE in group else ():
                fragments.setdefault(name, []).append(group[AVERAGE].narrow(0, place.start, place.numel))
    return {name.removeprefix(NETWORK): partial(_joined, parts, module[name].shape) for name, parts in fragments.items()}


def _joined(parts: Sequence[Tensor], shape: torch.Size) -> Tensor:
    return torch.cat(list(parts)).view(shape)


def _shared_out(param_shapes: Sequence[Mapping[str, Sequence[int]]], groups: Sequence[Sequence[Tensor]]) -> Weights:
    """ZeRO-3: each rank has the same share of every parameter, one after the other in flat groups."""
    shapes = {name: torch.Size(shape) for group in param_shapes for name, shape in group.items()}
    shares = [-(-shape.numel() // len(groups)) for shape in shapes.values()]
    if sum(shares) != sum(flat.numel() for flat in groups[0]):
        raise ValueError(f"the shapes in it count {sum(shares)} numbers a rank, its groups {sum(map(len, groups[0]))}")
    places = zip(shapes.items(), accumulate(shares, initial=0), shares, strict=False)
    return {name.removeprefix(NETWORK): partial(_gathered, groups, begin, share, shape) for (name, shape), begin, share in places}


def _gathered(groups: Sequence[Sequence[Tensor]], begin: int, share: int, shape: torch.Size) -> Tensor:
    """A parameter from the shares of all ranks; the last one is padded."""
    return torch.cat([_slice(flat, begin, begin + share) for flat in groups])[: shape.numel()].view(shape)


def _slice(groups: Sequence[Tensor], begin: int, end: int) -> Tensor:
    """Numbers of consecutive flat tensors."""
    bounds = pairwise(accumulate((group.numel() for group in groups), initial=0))
    return torch.cat([group[max(begin - low, 0) : max(end - low, 0)] for group, (low, _) in zip(groups, bounds, strict=True) if low < end])


def _rank(path: Path) -> int:
    return int(path.name.partition("_pp_rank_")[2].partition("_")[0])
