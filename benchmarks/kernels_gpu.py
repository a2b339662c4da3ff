"""The GPU's part of `python -m benchmarks.kernels`: the language model's sampler of MMFS at its published size, in bf16.

The goals are for the operator alone; beside the others stands the operator with the sum over images, since theirs contain it. The others
are transformers' loop and, where one is installed, a CUDA operator with the interface of Deformable-DETR's. Hugging Face's `kernels`
package, which loads such operators, has our package's name and cannot be installed beside it.
"""

from __future__ import annotations

import importlib
import statistics
import sys
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels import LARGE, SMALL, Case, Inputs, Program, as_levels, check, ours, peer
from benchmarks.record import Goal, Row
from benchmarks.side_by_side import call, results
from kernels.deformable_attention import deformable_attention, gpu
from kernels.testing import TOLERANCE, relative_error

CASE = Case(4, 2048, 6, ((32, 32), (16, 16), (8, 8)), 16, 64, 8)
EXTENSIONS = ("MultiScaleDeformableAttention", "deformable_detr")
CALLS = 20
FORWARD, BACKWARD = Goal(1.0), Goal(2.5)


def measure(repetitions: int, *, quick: bool) -> list[Row]:
    """Milliseconds between two events of the stream, medians of interleaved calls. Raises AssertionError before any wrong number."""
    if not gpu.available():
        return []
    checked = check(SMALL if quick else LARGE, "triton", "cuda", runs=20)
    case = SMALL if quick else CASE
    given = Inputs(case, torch.bfloat16, "cuda")
    programs: dict[str, Program] = {"triton": ours("triton"), "transformers": peer, **extension(given)}
    checked += f"; bf16 within {rounding(SMALL if quick else LARGE):.1g} of fp64"
    where = f"{torch.cuda.get_device_name()}, bf16, {case}"
    rows = [_row(where, metric, value, checked, None if quick else goal) for metric, value, goal in alone(given, repetitions)]
    times: dict[tuple[str, bool], list[float]] = {(name, backward): [] for name in programs for backward in (False, True)}
    for _ in range(repetitions * CALLS):
        for (name, backward), every in times.items():
            every.append(timed(partial(call, programs[name], given, backward)))
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


def rounding(case: Case) -> float:
    """The largest error of ours in bf16, from transformers' in fp64 on the same numbers. Theirs in bf16 rounds the locations."""
    given = Inputs(case, torch.bfloat16, "cuda")
    own = results(ours("triton"), given)
    given.value, given.location, given.weight, given.gradient = (
        each.detach().double() for each in (given.value, given.location, given.weight, given.gradient)
    )
    given.leaves = [each.requires_grad_() for each in (given.value, given.location, given.weight)]
    worst = max(map(relative_error, own, results(peer, given)))
    if worst > TOLERANCE[torch.bfloat16, "op"]:
        raise AssertionError(f"in bf16 the kernels are wrong by {worst:.2g}")
    return worst


def extension(given: Inputs) -> dict[str, Program]:
    """A CUDA operator with Deformable-DETR's interface, by its name, if one is installed that can compute this and does so rightly."""
    for name in EXTENSIONS:
        try:
            program = _program(importlib.import_module(name))
            with torch.no_grad():
                error = relative_error(program(given), ours("triton")(given))
        except (ImportError, RuntimeError) as reason:
            print(f"not measured: {name}: {reason}", file=sys.stderr)
            continue
        # Its sums may be of 16 bits.
        if error <= 4 * TOLERANCE[torch.bfloat16, "op"]:
            return {name: program}
        print(f"not measured: {name} is wrong by {error:.2g}", file=sys.stderr)
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


def _row(case: str, metric: str, value: float, check: str, goal: Goal | None) -> Row:
    return Row(case, metric, value, "" if "/" in metric else "ms", check, str(goal or ""), goal.holds(value) if goal else None)
