"""MMFS beside its published mathematics, in one process and in turn: `python -m benchmarks.mmfs [--quick] [--repetitions N] [--json FILE]`.

Both have the same parameters and inputs. No number without its check: output and all gradients against the published form in float64, and
the same bits twice and on one thread. Beside each stands what its matrix products alone would take at the rate of a large bare product
here: no sampler and no compiler can make it faster than that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published_mmfs import published
from benchmarks.record import Goal, Row, options, publish
from benchmarks.side_by_side import in_turn, results, seconds
from kernels.deformable_attention import Path
from kernels.deformable_attention.cpu import library
from kernels.testing import relative_error
from model.config import SamplerConfig
from model.mmfs import MMFS
from model.positions import cell_centres
from model.sequence import Pairs, pairs_from_mask

CORES = 2
ROUNDS = 3  # of a repetition
LIMITS = {torch.float32: 5e-6, torch.float64: 1e-13}
ROUNDED = 2e-2  # what bfloat16 linear layers may differ by
Sees = Literal["causal", "own", "all"]
Way = Literal["layer", "prepared", "cached"]


@dataclass(frozen=True)
class Case:
    """`causal`: images lie evenly in a text and are seen by what follows; `own`: a document of its own each; `all`: every query sees all.

    side: queries are pixels of a map and look from their own places, otherwise all look from the middle.
    """

    name: str
    query_width: int
    value_width: int
    heads: int
    points: int
    levels: tuple[int, ...]
    sequences: int
    queries: int
    images: int
    sees: Sees
    side: int | None = None

    def mask(self) -> Tensor:
        """Who sees what, [B, Q, N]."""
        place = torch.arange(self.queries)[:, None] * self.images
        number = torch.arange(self.images) * self.queries
        if self.sees == "all":
            seen = torch.ones(self.queries, self.images, dtype=torch.bool)
        else:
            seen = place >= number if self.sees == "causal" else (place >= number) & (place < number + self.queries)
        return seen.long().expand(self.sequences, -1, -1)


@dataclass(frozen=True)
class Measure:
    """A number of a case: `layer` projects the values, `prepared` has what weights alone give, `cached` has the values too."""

    case: Case
    metric: str
    way: Way
    backward: bool
    goal: float
    bfloat16: bool = False


SMALL = Case("small: 2 x 512 tokens, 4 images, 512 wide", 512, 512, 8, 4, (32, 16, 8), 2, 512, 4, "causal")
WIDE = Case("5120 wide: 256 tokens, 4 images", 5120, 1024, 16, 8, (32, 16, 8), 1, 256, 4, "causal")
TOKEN = replace(WIDE, name="5120 wide: 1 token, 4 images", queries=1, sees="all")
PACK = replace(SMALL, name="1024 tokens, 16 documents of one image", sequences=1, queries=1024, images=16, sees="own")
PIXELS = Case("UNet block: 32x32 of 320, 1 image", 320, 1024, 16, 8, (64, 32, 16, 8), 1, 1024, 1, "all", side=32)
TINY = Case("tiny", 24, 16, 2, 2, (4, 2), 2, 16, 2, "causal")
MEASURES = (
    Measure(SMALL, "forward", "layer", False, 8.0),
    Measure(SMALL, "forward+backward", "layer", True, 7.0),
    Measure(WIDE, "forward+backward", "layer", True, 3.3),
    Measure(WIDE, "forward, folded", "prepared", False, 6.4),
    Measure(WIDE, "forward, folded, bfloat16 linears", "prepared", False, 18.0, bfloat16=True),
    Measure(PACK, "forward+backward", "layer", True, 17.0),
    Measure(TOKEN, "forward, cached values", "cached", False, 25.0),
    Measure(PIXELS, "forward, cached values", "cached", False, 14.0),
    Measure(PIXELS, "forward+backward", "layer", True, 4.2),
)
QUICK = tuple(replace(each, case=TINY) for each in (*MEASURES[:2], MEASURES[4], MEASURES[6]))
MANY, MOST = 16, 1.3  # images in a row of which one is seen, and what they may cost beside one image


class Inputs:
    """The parameters and inputs of a case; the module and the published form share them.

    steady: points keep to the inside of cells. Between two cells the gradient of a location jumps, and rounding decides between its values.
    """

    def __init__(self, case: Case, dtype: torch.dtype, path: Path = "torch", *, bfloat16: bool = False, steady: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        base = case.side or case.levels[-2]
        config = SamplerConfig(
            heads=case.heads,
            points=case.points,
            inner=case.heads * 64,
            levels=case.levels,
            table_rows=50,
            offset_init=3.0,
            train_sink=True,
            path="auto",
            linears="bfloat16" if bfloat16 else "own",
        )
        self.module = MMFS(case.query_width, case.value_width, config, base)
        self.module.path = path
        with torch.no_grad():
            for name, parameter in sorted(self.module.named_parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * _spread(name, parameter))
            if steady:
                fine = case.levels[0] / base
                self.module.sampling_offsets.weight.mul_(0.06 / fine)
                self.module.sampling_offsets.bias.copy_(((self.module.sampling_offsets.bias * fine).round() + 0.25) / fine)
        self.module = self.module.to(dtype)
        cells = sum(side * side for side in case.levels)
        self.mask = case.mask()
        self.pairs: Pairs = pairs_from_mask(self.mask)
        self.reference = (torch.full((1, 2), 0.5) if case.side is None else cell_centres((case.side,))).to(dtype)
        self.query = torch.randn(case.sequences, case.queries, case.query_width, generator=generator).to(dtype)
        self.features = torch.randn(case.sequences, case.images, cells, case.value_width, generator=generator).to(dtype)
        self.gradient = torch.randn(self.query.shape, generator=generator).to(dtype)
        with torch.no_grad():
            self.prepared = self.module.prepare()
            self.value = self.module.project(self.features.flatten(0, 1))
        self.leaves = [each.requires_grad_() for each in (self.query, self.features, *self.module.parameters())]


def _spread(name: str, parameter: nn.Parameter) -> float:
    """Points lie within some cells of the middle and follow the query by half of one; the rest keeps the size of what goes through it."""
    if name == "sampling_offsets.bias":
        return 2.0
    if name == "sampling_offsets.weight":
        return 0.5 * float(parameter.shape[-1]) ** -0.5
    if name in ("query_relpos.weight", "ignore_token"):
        return 0.5
    return float(parameter.shape[-1]) ** -0.5 if parameter.dim() == 2 else 0.1


Program = Callable[[Inputs], Tensor]


def peer(given: Inputs) -> Tensor:
    """The published form."""
    return published(given.module, given.query, given.features, given.mask, given.reference)


def ours(way: Way) -> Program:
    """Our module, [B, Q, query_width]."""

    def run(given: Inputs) -> Tensor:
        module = given.module
        value = given.value if way == "cached" else module.project(given.features.flatten(0, 1))
        prepared = None if way == "layer" else given.prepared
        reference = given.reference.repeat(len(given.query), 1) if len(given.reference) > 1 else given.reference
        return module(given.query.flatten(0, 1), value, reference, given.pairs, prepared).view_as(given.query)

    return run


def main() -> None:
    asked = options("MMFS")
    torch.set_num_threads(CORES)
    paths: list[Path] = ["torch"]
    if library.available(True):
        paths.insert(0, "cpp")
    else:
        print("no C++ operator here: pure PyTorch alone is measured", file=sys.stderr)
    goals = not asked.quick
    rows = [row for each in (MEASURES if goals else QUICK) for row in measure(each, paths, asked.repetitions, goals)]
    many = replace(PACK, queries=512, images=MANY) if goals else replace(TINY, sees="own")
    rows += [of_many_images(many, path, asked.repetitions, goals) for path in paths]
    publish("mmfs", rows, asked)


def measure(wanted: Measure, paths: Sequence[Path], repetitions: int, goals: bool) -> list[Row]:
    """A row per path; the value is milliseconds, the ratio how many times the published form's."""
    checks = [check(wanted, path) for path in paths]
    given = Inputs(wanted.case, torch.float32)
    own = [Inputs(wanted.case, torch.float32, path, bfloat16=wanted.bfloat16) for path in paths]
    run = ours(wanted.way)
    calls = [lambda: seconds(peer, given, wanted.backward), *((lambda each=each: seconds(run, each, wanted.backward)) for each in own)]
    bare = Product(torch.bfloat16 if wanted.bfloat16 else torch.float32)
    theirs, product, *taken = in_turn([calls[0], bare.once, *calls[1:]], ROUNDS * repetitions)
    floor = product * operations(run, own[0], wanted.backward) / bare.operations
    # Without the instructions for it, bfloat16 is slower than float32: a number, but no figure that was asked for.
    asked = goals and (not wanted.bfloat16 or has_bfloat16_products())
    goal = Goal(wanted.goal, at_most=False)
    rows = []
    for path, passed, milliseconds in zip(paths, checks, taken, strict=True):
        ratio = theirs / milliseconds
        case = f"{wanted.case.name}, {path} path"
        holds = goal.holds(ratio) if asked else None
        rows.append(Row(case, wanted.metric, milliseconds, "ms", passed, f"ratio {goal}" if asked else "", holds, theirs, ratio))
    rows.append(Row(wanted.case.name, f"{wanted.metric}: matrix products alone", floor, "ms", checks[0], "", None, theirs, theirs / floor))
    return rows


class Product:
    """A bare product of the size of a projection of four images."""

    operations = 2 * 4 * 1344 * 1024 * 1024

    def __init__(self, dtype: torch.dtype) -> None:
        self.rows, self.weight = torch.ones(4 * 1344, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)

    def once(self) -> float:
        """Seconds of one."""
        started = time.perf_counter()
        torch.nn.functional.linear(self.rows, self.weight)
        return time.perf_counter() - started


def operations(program: Program, given: Inputs, backward: bool) -> int:
    """Floating-point operations of a program's matrix products."""
    # The counter knows neither `no_grad` nor `autograd.grad`.
    with FlopCounterMode(display=False) as counter:
        output = program(given)
        if backward:
            output.backward(given.gradient)
    for leaf in given.leaves:
        leaf.grad = None
    return int(counter.get_total_flops())


def of_many_images(case: Case, path: Path, repetitions: int, goals: bool) -> Row:
    """What a row of images costs beside one image where each query sees one, with cached values."""
    few = replace(case, images=1)
    passed = [check(Measure(each, "", "cached", False, 0), path) for each in (few, case)][-1]
    worlds = [Inputs(each, torch.float32, path) for each in (few, case)]
    calls = [(lambda run=run, each=each: seconds(run, each, False)) for run in (ours("cached"), peer) for each in worlds]
    one, many, their_one, their_many = in_turn(calls, ROUNDS * repetitions)
    goal, ratio, theirs = Goal(MOST), many / one, their_many / their_one
    name = f"{case.queries} queries see one of {case.images} images, {path} path"
    holds = goal.holds(ratio) if goals else None
    return Row(name, "cost beside one image in the row", ratio, "x", passed, str(goal) if goals else "", holds, theirs, ratio / theirs)


def check(wanted: Measure, path: Path) -> str:
    """What was found about a measure's program. Raises AssertionError."""
    said = []
    for dtype, limit in LIMITS.items():
        for steady in (True, False) if dtype == torch.float32 and wanted.backward else (False,):
            given, exact = (Inputs(wanted.case, each, path, bfloat16=wanted.bfloat16, steady=steady) for each in (dtype, torch.float64))
            found, expected = _all(ours(wanted.way), wanted, given), _all(peer, wanted, exact)
            # Gradients in float32 are those of the steady inputs.
            compared = len(found) if steady or dtype == torch.float64 else 1
            worst = max(relative_error(own, other) for own, other in zip(found[:compared], expected[:compared], strict=True))
            allowed = ROUNDED if wanted.bfloat16 else limit
            if worst > allowed:
                raise AssertionError(
                    f"{wanted.case.name}, {wanted.metric}, {path}: {dtype} is {worst:.2g} from the published > {allowed:g}"
                )
            said.append((dtype, worst))
        _check_bits(wanted, given, found)
    worst_of = {dtype: max(worst for each, worst in said if each == dtype) for dtype in LIMITS}
    what = "output and gradients" if wanted.backward else "output"
    errors = ", ".join(f"{worst:.1g} ({str(dtype).removeprefix('torch.')})" for dtype, worst in worst_of.items())
    return f"published {what} in float64 within {errors}; same bits twice and on one thread"


def _check_bits(wanted: Measure, given: Inputs, found: list[Tensor]) -> None:
    again = _all(ours(wanted.way), wanted, given)
    torch.set_num_threads(1)
    alone = _all(ours(wanted.way), wanted, given)
    torch.set_num_threads(CORES)
    for name, other in (("twice", again), ("on one thread", alone)):
        if not all(torch.equal(own, each) for own, each in zip(found, other, strict=True)):
            raise AssertionError(f"{wanted.case.name}, {wanted.metric}: not the same bits {name}")


def _all(program: Program, wanted: Measure, given: Inputs) -> list[Tensor]:
    return results(program, given) if wanted.backward else [_output(program, given)]


@torch.no_grad()
def _output(program: Program, given: Inputs) -> Tensor:
    return program(given)


def has_bfloat16_products() -> bool:
    """Whether this processor multiplies matrices of bfloat16 by itself (AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


if __name__ == "__main__":
    main()
