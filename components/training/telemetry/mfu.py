"""Model FLOPs utilisation: the arithmetic that the model asks for, as a share of what the devices could do in the time.

A matrix product of a weight with N numbers costs 2N FLOPs a token forward, as much again for the gradient of its input where that has one,
and as much again where the weight is trained: 6N for trained weights, 4N for frozen ones that gradients pass, 2N for frozen ones below all
that is trained. Attention costs its two products of queries, keys and values in the same way, without a discount for the mask (PaLM,
arXiv 2204.02311, appendix B). Whatever is computed a second time for its gradient does not count, nor does what is not a matrix product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric.utilities.throughput import get_available_flops
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_SIDE, _TRIES = 768, 4
"""Of the square matrices that a CPU's peak is measured with, and how often; the best try counts."""


class FlopCount(TorchFunctionMode):
    """Within this context: FLOPs of the matrix products that are called, with those of their gradients to come."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (cost := _COSTS.get(func)) is not None:
            self.flops += cost(result, *args, **(kwargs or {}))
        return result


def mfu(flops_per_token: float, tokens_per_second: float, peak_flops: float) -> float:
    """Share of `peak_flops`, FLOPs a second of all devices together."""
    return flops_per_token * tokens_per_second / peak_flops


def peak_flops(peak_tflops: float | str, device: str, precision: str) -> float | None:
    """FLOPs a second of one device: what was configured, what is known of the GPU, or what this CPU process reaches; None if unknown."""
    if not isinstance(peak_tflops, str):
        return peak_tflops * 1e12
    dtype = _DTYPES[precision]
    if device == "cpu":
        return _measured(dtype)
    known = get_available_flops(torch.device("cuda", torch.cuda.current_device()), dtype)
    return float(known) if known else None


def _measured(dtype: torch.dtype) -> float:
    """What a square product reaches with the threads that this process has."""
    one = torch.ones(_SIDE, _SIDE, dtype=dtype)
    best = float("inf")
    for _ in range(_TRIES):
        begin = time.perf_counter()
        torch.mm(one, one)
        best = min(best, time.perf_counter() - begin)
    return 2.0 * _SIDE**3 / best


def _passes(*operands: Tensor) -> int:
    """The product itself, and one like it for each operand that has a gradient."""
    return 1 + sum(torch.is_grad_enabled() and operand.requires_grad for operand in operands)


def _linear(result: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> float:
    return 2.0 * result.numel() * weight.shape[-1] * _passes(input, weight)


def _convolution(result: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> float:
    return 2.0 * result.numel() * weight[0].numel() * _passes(input, weight)


def _transposed_convolution(result: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> float:
    return 2.0 * input.numel() * weight[0].numel() * _passes(input, weight)


def _product(result: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> float:
    return 2.0 * result.numel() * left.shape[-1] * _passes(left, right)


def _sum_of_product(result: Tensor, added: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> float:
    return _product(result, left, right)


def _attention(result: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> float:
    pairs = 2.0 * query[..., 0].numel() * key.shape[-2]
    scored = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    return pairs * (query.shape[-1] * _passes(query, key) + value.shape[-1] * (_passes(value) + scored))


_COSTS: dict[Callable[..., Any], Callable[..., float]] = {
    F.linear: _linear,
    F.conv2d: _convolution,
    torch.conv2d: _convolution,
    F.conv_transpose2d: _transposed_convolution,
    torch.conv_transpose2d: _transposed_convolution,
    F.scaled_dot_product_attention: _attention,
    torch.matmul: _product,
    torch.bmm: _product,
    torch.mm: _product,
    Tensor.matmul: _product,
    Tensor.__matmul__: _product,
    torch.addmm: _sum_of_product,
    torch.baddbmm: _sum_of_product,
}
