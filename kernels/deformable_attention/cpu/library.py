"""The compiled operator in this process: loaded once, and called on tensors that are checked and contiguous."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from kernels import build

_log = logging.getLogger(__name__)
_TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_FAILURES = {1: "image: a query names an image that is not there", 2: "no memory left", 3: "value: its type is not supported"}


class Loaded(NamedTuple):
    """The library, or why there is none."""

    library: ctypes.CDLL | None
    reason: str


@torch.compiler.assume_constant_result
def available(may_build: bool) -> bool:
    """Whether the operator can run; without it, one line in the log says why. With `may_build` it is compiled when it is not there."""
    return load(may_build).library is not None


@cache
def load(may_build: bool) -> Loaded:
    """The library of this process; the answer never changes."""
    try:
        path = build.find_or_build() if may_build else build.find()
        if path is None:
            loaded = Loaded(None, "it is not built; run `python -m kernels.build`")
        else:
            library = ctypes.CDLL(str(path))
            for name, arguments in (("mmfs_forward", 7), ("mmfs_backward", 10)):
                function = getattr(library, name)
                function.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * arguments
                function.restype = ctypes.c_int
            return Loaded(library, "")
    except (build.BuildError, OSError, AttributeError) as error:
        loaded = Loaded(None, str(error))
    _log.warning("deformable attention by pure PyTorch, the C++ operator is not used: %s", loaded.reason)
    return loaded


def forward(value: Tensor, shapes: Sequence[int], location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    """[Q, H, d]. Raises ValueError and RuntimeError naming the cause."""
    out = value.new_empty(*weight.shape[:2], value.shape[-1])
    kept = [tensor.contiguous() for tensor in (value, location, weight, image.to(torch.int64))]
    _call("mmfs_forward", shapes, kept, [], [out])
    return out


def backward(
    gradient: Tensor, value: Tensor, shapes: Sequence[int], location: Tensor, weight: Tensor, image: Tensor, wanted: Sequence[bool]
) -> list[Tensor]:
    """The gradients of value, location and weight; an empty tensor for one that is not wanted."""
    kept = [tensor.contiguous() for tensor in (value, location, weight, image.to(torch.int64))]
    results = [torch.empty_like(tensor) if asked else tensor.new_empty(0) for tensor, asked in zip(kept, wanted, strict=False)]
    _call("mmfs_backward", shapes, kept, [gradient.contiguous()], results)
    return results


def _call(name: str, shapes: Sequence[int], inputs: list[Tensor], more: list[Tensor], results: list[Tensor]) -> None:
    loaded = load(True)
    if loaded.library is None:
        raise RuntimeError(f"mmfs::deformable_attention cannot run here: {loaded.reason}")
    value, location, weight, _ = inputs
    _, _, levels, points = weight.shape
    sizes = (*value.shape, levels, location.shape[2], len(weight), points)
    status = getattr(loaded.library, name)(
        _TYPES.get(value.dtype, -1),
        (ctypes.c_int64 * len(sizes))(*sizes),
        (ctypes.c_int64 * len(shapes))(*shapes),
        *(tensor.data_ptr() for tensor in (*inputs, *more)),
        *(tensor.data_ptr() if tensor.numel() else None for tensor in results),
    )
    if status:
        kind = ValueError if status == 1 else RuntimeError
        raise kind(f"deformable attention: {_FAILURES.get(status, 'failed')}")
