"""Deformable sampling beside transformers' grid_sample loop, in one process and in turn: `python -m benchmarks.kernels [--quick]
[--json FILE]`. The peer's "levels" are images times scales; ours get one row per query and image, whose results are added up.

Where there is an NVIDIA GPU its kernels are measured too, also beside the CUDA operator of Deformable-DETR where one is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from benchmarks.record import Goal, Row, options, publish
from benchmarks.side_by_side import in_turn, results, seconds
from kernels.deformable_attention import Path, deformable_attention
from kernels.deformable_attention.cpu import library
from kernels.testing import relative_error

CORES = 2
CALLS = 3  # of each program in one repetition, in turn; their median counts


@dataclass(frozen=True)
class Case:
    """Every query of a sequence samples all its images; the locations are shared by the levels of one image."""

    sequences: int
    queries: int
    images: int
    levels: tuple[tuple[int, int], ...]
    heads: int
    channels: int
    points: int

    def __str__(self) -> str:
        levels = " + ".join(f"{h}x{w}" for h, w in self.levels)
        return f"{self.sequences} x {self.queries} queries, {self.images} images of {levels}, {self.heads} heads of {self.channels}"


LARGE = Case(2, 512, 4, ((16, 16), (8, 8), (32, 32)), 8, 64, 4)
SMALL = Case(2, 16, 2, ((4, 4), (8, 8)), 2, 64, 4)
# The ratios to the peer that are asked for, forward and forward+backward.
GOALS: dict[Path, tuple[float, float]] = {"cpp": (20.0, 15.0), "torch": (7.0, 4.2)}


class Inputs:
    """The same numbers for every program."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        rows = case.sequences * case.queries * case.images
        cells = sum(h * w for h, w in case.levels)
        self.case = case
        self.value = torch.randn(case.sequences * case.images, cells, case.heads, case.channels, generator=generator).to(device, dtype)
        self.location = (torch.rand(rows, case.heads, case.points, 2, generator=generator) * 1.2 - 0.1).to(device, dtype)
        weight = torch.rand(rows, case.heads, len(case.levels), case.points, generator=generator)
        self.weight = (weight / (case.images * len(case.levels) * case.points)).to(device, dtype)
        self.gradient = torch.randn(case.sequences, case.queries, case.heads * case.channels, generator=generator).to(device, dtype)
        of_query = torch.arange(case.sequences * case.images, device=device).view(case.sequences, 1, case.images)
        self.image = of_query.expand(-1, case.queries, -1).flatten()
        self.leaves = [each.requires_grad_() for each in (self.value, self.location, self.weight)]


Program = Callable[[Inputs], Tensor]


def ours(path: Path) -> Program:
    """Sampling by one of our paths, [sequences, queries, heads * channels]."""

    def run(given: Inputs) -> Tensor:
        case = given.case
        sampled = deformable_attention(given.value, case.levels, given.location, given.weight, given.image, path=path)
        return sampled.view(case.sequences, case.queries, case.images, -1).sum(2)

    return run


def peer(given: Inputs) -> Tensor:
    """transformers' module, which every model of its kind falls back to without a kernel of its own."""
    value, shapes, location, weight = as_levels(given)
    return MultiScaleDeformableAttention()(value, torch.tensor(shapes), shapes, None, location, weight, 64)


def as_levels(given: Inputs) -> tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]:
    """Value, sizes, locations and weights as the others want them: every level of every image is a level."""
    case = given.case
    split = (case.sequences, case.queries, case.images, case.heads, len(case.levels), case.points)
    location = given.location.view(*split[:4], 1, case.points, 2).expand(*split, 2)
    location = location.permute(0, 1, 3, 2, 4, 5, 6).flatten(3, 4)
    weight = given.weight.view(split).permute(0, 1, 3, 2, 4, 5).flatten(3, 4)
    value = given.value.view(case.sequences, -1, case.heads, case.channels)
    return value, [*case.levels] * case.images, location, weight


def main() -> None:
    asked = options("deformable sampling")
    torch.set_num_threads(CORES)
    paths: list[Path] = ["torch"]
    if library.available(True):
        paths.insert(0, "cpp")
    else:
        print("no C++ operator here: pure PyTorch alone is measured", file=sys.stderr)
    rows = measure(SMALL if asked.quick else LARGE, paths, asked.repetitions, goals=not asked.quick)
    if torch.cuda.is_available():
        from benchmarks.kernels_gpu import measure as measure_gpu

        rows += measure_gpu(asked.repetitions, quick=asked.quick)
    else:
        print("no NVIDIA GPU here: its kernels are not measured", file=sys.stderr)
    publish("kernels", rows, asked)


def measure(case: Case, paths: Sequence[Path], repetitions: int, *, goals: bool) -> list[Row]:
    """Rows of every path; the value is milliseconds, the ratio how many times the peer's."""
    checks = {path: check(case, path, "cpu") for path in paths}
    given = Inputs(case)
    programs: dict[str, Program] = {"peer": peer, **{path: ours(path) for path in paths}}
    kinds = [(name, backward) for name in programs for backward in (False, True)]
    calls = [partial(seconds, programs[name], given, backward) for name, backward in kinds]
    milliseconds = dict(zip(kinds, in_turn(calls, repetitions * CALLS), strict=True))
    rows = []
    for path in paths:
        for backward, metric in ((False, "forward"), (True, "forward+backward")):
            own, theirs = (milliseconds[name, backward] for name in (path, "peer"))
            goal = Goal(GOALS[path][backward], at_most=False)
            ratio = theirs / own
            holds = goal.holds(ratio) if goals else None
            rows.append(
                Row(f"{case}, {path} path", metric, own, "ms", checks[path], f"ratio {goal}" if goals else "", holds, theirs, ratio)
            )
    return rows


def check(case: Case, path: Path, device: str, runs: int = 2) -> str:
    """Output and gradients are the peer's in both types, and the same bits in all runs. Raises AssertionError."""
    worst = {}
    for dtype, limit in ((torch.float32, 5e-6), (torch.float64, 1e-13)):
        given = Inputs(case, dtype, device)
        exact, found = results(peer, given), results(ours(path), given)
        worst[dtype] = max(relative_error(own, other) for own, other in zip(found, exact, strict=True))
        if worst[dtype] > limit:
            raise AssertionError(f"{path} path: {dtype} differs from the peer by {worst[dtype]:.2g}, more than {limit:g}")
        for _ in range(runs - 1):
            for own, again in zip(found, results(ours(path), given), strict=True):
                if not torch.equal(own, again):
                    raise AssertionError(f"{path} path: not the same bits in {runs} runs")
    errors = f"{worst[torch.float32]:.1g} (fp32), {worst[torch.float64]:.1g} (fp64)"
    return f"peer's output and gradients within {errors}; same bits in {runs} runs"


if __name__ == "__main__":
    main()
