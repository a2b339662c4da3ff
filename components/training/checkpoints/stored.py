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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from components.checkpoints.manifest import CheckpointError
from components.training.checkpoints.universal_form import BUFFERS, is_universal, stored

NETWORK = "network."
"""What the Lightning module puts before the network's names."""
Weights = Mapping[str, Callable[[], Tensor]]
_FOLDER = "checkpoint"


class _Fragment(NamedTuple):
    numel: int
    start: int


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
    try:
        if engine.is_file():
            return _by_name(_load(engine)["state_dict"])
        if is_universal(engine):
            files = {name.removeprefix(NETWORK): partial(_of_file, file) for name, file in stored(engine).items()}
            return dict(_by_name(_load(engine / BUFFERS))) | files
        folder = engine / _FOLDER
        if (whole := folder / "mp_rank_00_model_states.pt").exists():
            return _by_name(_load(whole)["module"])
        return _shared_out(folder)
    except (OSError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{engine}: no weights can be read from it ({error})") from None


def _load(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals(_STANDINS):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _by_name(tensors: Mapping[str, Tensor]) -> Weights:
    return {name.removeprefix(NETWORK): partial(_itself, tensor) for name, tensor in tensors.items()}


def _of_file(file: Path) -> Tensor:
    tensor: Tensor = _load(file)["param"]
    return tensor


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _shared_out(folder: Path) -> Weights:
    """ZeRO-3: each rank has the same share of every parameter, one after the other in flat groups; buffers are whole."""
    states = sorted(folder.glob("*_optim_states.pt"), key=_rank)
    groups = [_load(path)["optimizer_state_dict"]["fp32_flat_groups"] for path in states]
    first = _load(folder / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    shapes = {name: tuple(shape) for group in first["param_shapes"] for name, shape in group.items()}
    shares = [-(-torch.Size(shape).numel() // len(states)) for shape in shapes.values()]
    weights = dict(_by_name({name: first["module"][name] for name in first["buffer_names"]}))
    for (name, shape), begin, share in zip(shapes.items(), accumulate(shares, initial=0), shares, strict=False):
        weights[name.removeprefix(NETWORK)] = partial(_gathered, groups, begin, share, torch.Size(shape))
    if sum(shares) != sum(flat.numel() for flat in groups[0]):
        raise CheckpointError(f"{folder}: the shapes in it count {sum(shares)} numbers a rank, its groups {sum(map(len, groups[0]))}")
    return weights


def _gathered(groups: Sequence[Sequence[Tensor]], begin: int, share: int, shape: torch.Size) -> Tensor:
    """A parameter from the shares of all ranks; the last one is padded."""
    return torch.cat([_slice(flat, begin, begin + share) for flat in groups])[: shape.numel()].view(shape)


def _slice(groups: Sequence[Tensor], begin: int, end: int) -> Tensor:
    """Numbers of consecutive flat tensors."""
    bounds = pairwise(accumulate((group.numel() for group in groups), initial=0))
    return torch.cat([group[max(begin - low, 0) : max(end - low, 0)] for group, (low, _) in zip(groups, bounds, strict=True) if low < end])


def _rank(path: Path) -> int:
    return int(path.name.partition("_pp_rank_")[2].partition("_")[0])
