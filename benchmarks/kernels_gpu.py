"""The GPU's part of `python -m benchmarks.kernels`: the language model's sampler of MMFS at its published size, in bf16.

The goals are for the operator alone; beside the others stands the operator with the sum over images, since theirs contain it. The others
are transformers' loop and, where one is installed, a CUDA operator with the interface of Deformable-DETR's. Hugging Face's `kernels`
package, which loads such operators, has our package's name and cannot be installed beside it.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels import LARGE, SMALL, Case, Inputs, Program, as_levels, check, ours, peer, results
from benchmarks.record import Goal, Row
from kernels.deformable_attention import deformable_attention, gpu
from kernels.testing import relative_error

CASE = Case(4, 2048, 6, ((32, 32), (16, 16), (8, 8)), 16, 64, 8)
EXTENSIONS = ("MultiScaleDeformableAttention", "deformable_detr")
CALLS = 20
FORWARD, BACKWARD = Goal(1.0), Goal(2.5)
BFLOAT16 = 1.6e-2


def measure(repetitions: int, *, quick: bool) -> list[Row]:
    """Milliseconds between two events of the stream, medians of interleaved calls. Raises AssertionError before any wrong number."""
    if not gpu.available():
        return []
    checked = check(SMALL if quick else LARGE, "triton", "cuda", runs=20)
    case = SMALL if quick else CASE
    given = Inputs(case, torch.bfloat16, "cuda")
    programs: dict[str, Program] = {"triton": ours("triton"), "transformers": peer, **extension()}
    checked += f"; bf16 within {agreement(programs, given):.1g} of all others"
    where = f"{torch.cuda.get_device_name()}, bf16, {case}"
    rows = [_row(where, metric, milliseconds, checked, goal) for metric, milliseconds, goal in alone(given, repetitions)]
    times: dict[tuple[str, bool], list[float]] = {(name, backward): [] for name in programs for backward in (False, True)}
    for _ in range(repetitions * CALLS):
        for (name, backward), every in times.items():
            every.append(timed(partial(_once, programs[name], given, backward)))
    for backward, metric in ((False, "forward and sum"), (True, "forward, sum and backward")):
        own = statistics.median(times["triton", backward])
        for name in [each for each in programs if each != "triton"]:
            theirs = statistics.median(times[name, backward])
            rows.append(Row(f"{where}, beside {name}", metric, own, "ms", checked, peer=theirs, ratio=theirs / own))
    for name, program in programs.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results(program, given)
        rows.append(Row(f"{where}, {name}", "peak memory", (torch.cuda.max_memory_allocated() - before) / 2**20, "MiB", checked))
    return rows


def alone(given: Inputs, repetitions: int) -> list[tuple[str, float, Goal | None]]:
    """The operator without the sum over images: forward, backward, and their ratio."""
    case = given.case

    def forward() -> Tensor:
        return deformable_attention(given.value, case.levels, given.location, given.weight, given.image, path="triton")

    output = forward()
    gradient = torch.ones_like(output)
    times: list[tuple[float, float]] = []
    for _ in range(repetitions * CALLS):
        with torch.no_grad():
            there = timed(forward)
        times.append((there, timed(lambda: torch.autograd.grad(output, given.leaves, gradient, retain_graph=True))))
    there, back = (statistics.median(each) for each in zip(*times, strict=True))
    return [("forward", there, FORWARD), ("backward", back, None), ("backward / forward", back / there, BACKWARD)]


def timed(call: Callable[[], object]) -> float:
    """Milliseconds on the device; the queue is empty before, so that the host is counted too where it is the slower."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def agreement(programs: dict[str, Program], given: Inputs) -> float:
    """The largest difference between ours and another in bf16, whose own sums may be of 16 bits."""
    own = results(programs["triton"], given)
    found = {name: max(map(relative_error, own, results(program, given))) for name, program in programs.items() if name != "triton"}
    if max(found.values()) > 4 * BFLOAT16:
        raise AssertionError(f"in bf16 the kernels differ: {found}")
    return max(found.values())


def extension() -> dict[str, Program]:
    """A CUDA operator with Deformable-DETR's interface, by its name, if one is installed."""
    for name in EXTENSIONS:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return {name: _program(module)}
    return {}


def _program(module: Any) -> Program:
    class Sampler(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Tensor:
            ctx.save_for_backward(*arguments)
            return module.ms_deform_attn_forward(*arguments, 64)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            found = module.ms_deform_attn_backward(*ctx.saved_tensors, gradients[0].contiguous(), 64)
            return found[0], None, None, found[1], found[2]

    def run(given: Inputs) -> Tensor:
        value, shapes, location, weight = as_levels(given)
        sizes = torch.tensor(shapes, device=value.device)
        starts = torch.tensor([*accumulate((h * w for h, w in shapes[:-1]), initial=0)], device=value.device)
        sampled: Tensor = Sampler.apply(value, sizes, starts, location.contiguous(), weight.contiguous())
        return sampled

    return run


def _once(program: Program, given: Inputs, backward: bool) -> None:
    if backward:
        results(program, given)
    else:
        with torch.no_grad():
            program(given)


def _row(case: str, metric: str, value: float, check: str, goal: Goal | None) -> Row:
    return Row(case, metric, value, "" if "/" in metric else "ms", check, str(goal or ""), goal.holds(value) if goal else None)
