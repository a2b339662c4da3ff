"""Tiny ONNX files, written byte by byte: a stand-in for MANIQA (mean of a picture) and one for RAFT (difference of two)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 16


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(_number(1, size) for size in values.shape)
    return dims + _number(2, 1) + _bytes(8, name) + _bytes(9, values.astype("<f4").tobytes())


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, size)) for size in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, dims)))


def _node(kind: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(3, output) + _bytes(4, kind)


def _model(nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], constants: Sequence[bytes]) -> bytes:
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, "tiny")
    graph += b"".join(_bytes(5, one) for one in constants)
    graph += b"".join(_bytes(11, one) for one in inputs) + b"".join(_bytes(12, one) for one in outputs)
    return _number(1, 7) + _bytes(7, graph) + _bytes(8, _bytes(1, "") + _number(2, 13))


def _save(folder: Path, role: str, model: bytes, inputs: Sequence[str], output: str, **more: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    plugin = {"version": 1, "role": role, "file": "model.onnx", "size": [SIDE, SIDE], "inputs": list(inputs), "output": output}
    (folder / "plugin.json").write_text(json.dumps(plugin | more))
    return folder


def save_maniqa(folder: Path, **more: Any) -> Path:
    """The mean of the three planes, added up."""
    nodes = [_node("GlobalAveragePool", ["x"], "pool"), _node("Conv", ["pool", "w"], "score")]
    constants = [_tensor("w", np.ones((1, 3, 1, 1)))]
    model = _model(nodes, [_value("x", (1, 3, SIDE, SIDE))], [_value("score", (1, 1, 1, 1))], constants)
    return _save(folder, "maniqa", model, ["x"], "score", **{"scale": 255.0} | more)


def save_raft(folder: Path) -> Path:
    """What the red and green planes gain, as the flow's x and y."""
    weights = np.zeros((2, 3, 1, 1))
    weights[0, 0] = weights[1, 1] = 1
    nodes = [_node("Sub", ["b", "a"], "gain"), _node("Conv", ["gain", "w"], "flow")]
    shape = (1, 3, SIDE, SIDE)
    model = _model(nodes, [_value("a", shape), _value("b", shape)], [_value("flow", (1, 2, SIDE, SIDE))], [_tensor("w", weights)])
    return _save(folder, "raft", model, ["a", "b"], "flow")
