"""What a part of a model costs: alone, on the inputs that it has in a real step; and a function's cost in a process of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kernels.testing import assert_close

Result = TypeVar("Result")


@dataclass(frozen=True)
class Call:
    """One call of a module in a step: with what, and what came of it."""

    module: nn.Module
    arguments: tuple[Any, ...]
    output: Any


@dataclass(frozen=True)
class PartCost:
    """Seconds of all calls of a part, and bytes kept between forward and backward."""

    forward: float
    both: float
    kept: int


def calls(parts: Mapping[str, Sequence[nn.Module]], run: Callable[[], object]) -> dict[str, list[Call]]:
    """The calls of each part's modules, by positional arguments, while `run` runs."""
    seen: dict[str, list[Call]] = {name: [] for name in parts}
    with contextlib.ExitStack() as hooks:
        for name, modules in parts.items():
            for module in modules:
                hook = module.register_forward_hook(lambda module, inputs, output, own=seen[name]: own.append(Call(module, inputs, output)))
                hooks.callback(hook.remove)
        run()
    return seen


def cost(part: Iterable[Call]) -> PartCost:
    """Forward and backward of every call on inputs cut off from the rest. Raises AssertionError when an output is not that of the step."""
    every = [_cost(call) for call in part]
    return PartCost(sum(each.forward for each in every), sum(each.both for each in every), sum(each.kept for each in every))


def _cost(call: Call) -> PartCost:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = [_cut_off(argument) for argument in call.arguments]
    trained = any(tensor.requires_grad for tensor in _tensors(call.output))
    started = time.perf_counter()
    with torch.set_grad_enabled(trained), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = _tensors(call.module(*inputs))
    forward = time.perf_counter() - started
    for ours, theirs in zip(outputs, _tensors(call.output), strict=True):
        assert_close(ours, theirs, "model", type(call.module).__name__)
    if not trained:
        return PartCost(forward, forward, 0)
    seeds = [torch.ones_like(output) for output in outputs]
    started = time.perf_counter()
    torch.autograd.backward(outputs, seeds)
    backward = time.perf_counter() - started
    call.module.zero_grad(set_to_none=True)
    own = {parameter.untyped_storage().data_ptr() for parameter in call.module.parameters()}
    return PartCost(forward, forward + backward, sum(size for place, size in kept.items() if place not in own))


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """The result of a function of a module, called in a fresh interpreter."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_gib() -> float:
    """The most memory that this process has had so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM"))


def _cut_off(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.requires_grad)
    if isinstance(value, list | tuple):
        return type(value)(_cut_off(each) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _cut_off(getattr(value, field.name)) for field in fields(value)})
    return value


def _tensors(output: Any) -> list[Tensor]:
    """The tensors of an output, nested tuples flattened."""
    return [output] if isinstance(output, Tensor) else [tensor for each in output for tensor in _tensors(each)]
