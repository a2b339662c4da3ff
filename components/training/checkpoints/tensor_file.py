"""A safetensors file written tensor by tensor: the library's own writer wants all of them in memory at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from components.training.checkpoints.tensors import Described, raw

# The library's words and, rising, its order: tensors lie by falling type, then by name.
_WORDS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
_ORDER = list(_WORDS)


def write_tensor_file(path: Path, tensors: Mapping[str, Described], read: Callable[[str], Tensor], metadata: Mapping[str, str]) -> None:
    """Write the file that `safetensors.torch.save_file` would, byte for byte; `read` is asked for one tensor after the other.

    What it gives is converted to the described type. Raises ValueError for another shape or a type that the format does not have.
    """
    if strange := {tensor.dtype for tensor in tensors.values()} - _WORDS.keys():
        raise ValueError(f"safetensors has no type for {', '.join(sorted(strange))}")
    names = sorted(tensors, key=lambda name: (-_ORDER.index(tensors[name].dtype), name.encode()))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        begin, end = end, end + prod(tensors[name].shape) * _dtype(tensors[name]).itemsize
        header[name] = {"dtype": _WORDS[tensors[name].dtype], "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = read(name)
            if tuple(tensor.shape) != tensors[name].shape:
                raise ValueError(f"{name} is {list(tensor.shape)}, described as {list(tensors[name].shape)}")
            file.write(raw(tensor.to(_dtype(tensors[name]))))


def _dtype(tensor: Described) -> torch.dtype:
    dtype = getattr(torch, tensor.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype
