"""The gradient of value, deterministic and without atomics: sort the samples by where they lie, then every row has one writer.

A sample touches four cells, but lies in one gap between them; there are (h + 1) * (w + 1) gaps on a map, its border included. The samples
are sorted by (image, head, gap), stably, once: a quarter of the records that corners would be. Beside the sorted order stand the sample's
(query, head) pair and its four shares. The program of a row then adds what lies in the four gaps around its cell, gap after gap, in the
order of the sort. Where a gap holds whole chunks of CHUNK consecutive sorted samples, their sums were made before, one program per chunk,
so that a cell that everybody looks at is not added up by one program alone.

What bounds it: the sort moves 24 bytes per sample four times, which is HBM; a sample's incoming gradient is read four times, from L2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.deformable_attention.gpu.geometry import WIDE, flat_levels

CHUNK = 256
# Samples of one tile: enough independent loads to hide their latency, few enough that a short gap does not waste them. One warp
# per row of up to 64 channels, so that as many rows as possible are in flight.
TILE = 16
PER_WARP = 1024
# Samples sorted at once: bounds the scratch memory (36 bytes per sample and the sort's own) and keeps their numbers in 32 bits.
PIECE = 2**26
BLOCK = 1024


def value_gradient(
    gradient: Tensor, value: Tensor, shapes: Sequence[int], location: Tensor, weight: Tensor, image: Tensor, piece: int = PIECE
) -> Tensor:
    """[n, S, H, d] in the type of value; the inputs beside value are contiguous. Queries beyond `piece` samples follow in a second turn."""
    if weight.numel() == 0 or value.numel() == 0:
        return torch.zeros_like(value, memory_format=torch.contiguous_format)
    queries = max(1, piece // weight[0].numel())
    dtype = torch.promote_types(value.dtype, torch.float32) if len(weight) > queries else value.dtype
    to_value = torch.empty(value.shape, device=value.device, dtype=dtype)
    with torch.cuda.device_of(value):
        for first in range(0, len(weight), queries):
            own = slice(first, first + queries)
            _add(to_value, first > 0, gradient[own], flat_levels(shapes), location[own], weight[own], image[own])
    return to_value.to(value.dtype)


def _add(to_value: Tensor, more: bool, gradient: Tensor, levels: tuple[int, ...], location: Tensor, weight: Tensor, image: Tensor) -> None:
    images, cells, heads, channels = to_value.shape
    samples, gaps = weight.numel(), sum((h + 1) * (w + 1) for h, w in zip(levels[::3], levels[1::3], strict=True))
    segments = images * heads * gaps
    wide = torch.promote_types(gradient.dtype, torch.float32)
    of_samples = {
        "LEVELS": weight.shape[2],
        "POINTS": weight.shape[3],
        "SHARED": location.shape[2] == 1,
        "WIDE": WIDE[wide],
        "BLOCK": BLOCK,
    }
    of_rows = {"channels": channels, "D": triton.next_power_of_2(channels), "TILE": TILE, "CHUNK": CHUNK, "WIDE": WIDE[wide]}
    blocks, warps = triton.cdiv(samples, BLOCK), max(1, TILE * triton.next_power_of_2(channels) // PER_WARP)

    keys = weight.new_empty(samples, dtype=torch.int32 if segments < 2**31 - 1 else torch.int64)
    locate_kernel[blocks,](location, weight, image, keys, samples, images, levels, gaps, segments, heads=heads, **of_samples, num_warps=4)
    keys, order = torch.sort(keys, stable=True)
    begins = torch.searchsorted(keys, torch.arange(segments + 1, device=keys.device, dtype=keys.dtype), out_int32=True)
    pairs = weight.new_empty(samples, dtype=torch.int32)
    shares = weight.new_empty(4, samples, dtype=wide)
    share_kernel[blocks,](location, weight, keys, order, pairs, shares, samples, levels, gaps, **of_samples, num_warps=4)
    partials = weight.new_empty(samples // CHUNK, 4, channels, dtype=wide)
    if len(partials):
        chunk_kernel[len(partials),](gradient, keys, pairs, shares, partials, samples, segments, **of_rows, num_warps=4 * warps)
    rows_kernel[images * cells * heads,](
        gradient,
        begins,
        pairs,
        shares,
        partials,
        to_value,
        samples,
        levels,
        cells,
        gaps,
        heads=heads,
        LEVELS=weight.shape[2],
        MORE=more,
        **of_rows,
        num_warps=warps,
    )


@triton.jit
def locate_kernel(
    location,
    weight,
    image,
    keys,
    samples,
    images,
    levels,
    gaps,
    segments,
    heads: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    SHARED: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The key of each sample: (image, head, gap), or `segments` where it touches no cell."""
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = number < samples
    pair = number // (LEVELS * POINTS)
    level_of = (number // POINTS) % LEVELS
    height = tl.zeros([BLOCK], tl.int32)
    width = tl.zeros([BLOCK], tl.int32)
    begin = tl.zeros([BLOCK], tl.int32)
    start = 0
    for level in tl.static_range(LEVELS):
        own = level_of == level
        height = tl.where(own, levels[3 * level], height)
        width = tl.where(own, levels[3 * level + 1], width)
        begin = tl.where(own, start, begin)
        start += (levels[3 * level] + 1) * (levels[3 * level + 1] + 1)
    place = (pair * POINTS + number % POINTS if SHARED else number).to(tl.int64)
    x = tl.load(location + place * 2, mask=there, other=0.0).to(WIDE)
    y = tl.load(location + place * 2 + 1, mask=there, other=0.0).to(WIDE)
    share = tl.load(weight + number, mask=there, other=0.0).to(WIDE)
    picture = tl.load(image + pair // heads, mask=there, other=-1)
    # What is no number must not be lost: its place along that axis is the first cell, and outside of the map it is the first cell of all.
    nothing = share * 0.0
    spoiled = (x != x) | (y != y) | (nothing != nothing)
    x = tl.where(x == x, x * width.to(WIDE) - 0.5, 0.0)
    y = tl.where(y == y, y * height.to(WIDE) - 0.5, 0.0)
    # Bounded so that they fit integers.
    column = tl.floor(tl.minimum(tl.maximum(x, -2.0), width.to(WIDE))).to(tl.int32)
    row = tl.floor(tl.minimum(tl.maximum(y, -2.0), height.to(WIDE))).to(tl.int32)
    inside = (column >= -1) & (column < width) & (row >= -1) & (row < height)
    column = tl.where(inside, column, 0)
    row = tl.where(inside, row, 0)
    gap = begin + (row + 1) * (width + 1) + column + 1
    group = picture.to(keys.dtype.element_ty) * heads + pair % heads
    key = tl.where((inside | spoiled) & (picture >= 0) & (picture < images), group * gaps + gap, segments)
    tl.store(keys + number, key, mask=there)


@triton.jit
def share_kernel(
    location,
    weight,
    keys,
    order,
    pairs,
    shares,
    samples,
    levels,
    gaps,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    SHARED: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """In sorted order: each sample's (query, head) pair and what it gives the four cells around its gap.

    The cell is that of the key, not rounded anew: the two kernels may differ in the last bit of a position.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = place < samples
    number = tl.load(order + place, mask=there, other=0).to(tl.int32)
    gap = (tl.load(keys + place, mask=there, other=0) % gaps).to(tl.int32)
    height, width, begin = gap * 0, gap * 0, gap * 0
    start = 0
    for level in tl.static_range(LEVELS):
        height = tl.where(gap >= start, levels[3 * level], height)
        width = tl.where(gap >= start, levels[3 * level + 1], width)
        begin = tl.where(gap >= start, start, begin)
        start += (levels[3 * level] + 1) * (levels[3 * level + 1] + 1)
    row = (gap - begin) // (width + 1) - 1
    column = (gap - begin) % (width + 1) - 1
    pair = number // (LEVELS * POINTS)
    point = (pair * POINTS + number % POINTS if SHARED else number).to(tl.int64)
    far_x = tl.load(location + point * 2, mask=there, other=0.0).to(WIDE) * width.to(WIDE) - 0.5 - column.to(WIDE)
    far_y = tl.load(location + point * 2 + 1, mask=there, other=0.0).to(WIDE) * height.to(WIDE) - 0.5 - row.to(WIDE)
    share = tl.load(weight + number, mask=there, other=0.0).to(WIDE)
    up, down = share * (1.0 - far_y), share * far_y
    tl.store(pairs + place, pair, mask=there)
    to = shares + place
    tl.store(to, up * (1.0 - far_x), mask=there)
    tl.store(to + samples, up * far_x, mask=there)
    tl.store(to + 2 * samples, down * (1.0 - far_x), mask=there)
    tl.store(to + 3 * samples, down * far_x, mask=there)


@triton.jit
def load_given(gradient, pairs, place, there, channel, channels: tl.constexpr, WIDE: tl.constexpr):
    """[TILE, D]: the incoming gradients of samples, 0 where not there."""
    pair = tl.load(pairs + place, mask=there, other=0).to(tl.int64)
    mask = there[:, None] & (channel < channels)[None, :]
    return tl.load(gradient + (pair * channels)[:, None] + channel[None, :], mask=mask, other=0.0).to(WIDE)


@triton.jit
def chunk_kernel(
    gradient,
    keys,
    pairs,
    shares,
    partials,
    samples,
    segments,
    channels: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """[chunk, corner, d]: the sums of a chunk for the four cells around its gap, where it lies in one gap; else untouched."""
    first = tl.program_id(0) * CHUNK
    key = tl.load(keys + first)
    if (key == tl.load(keys + first + CHUNK - 1)) & (key < segments):
        channel = tl.arange(0, D)
        there = tl.full([TILE], 1, tl.int1)
        sum00 = tl.zeros([TILE, D], WIDE)
        sum01 = tl.zeros([TILE, D], WIDE)
        sum10 = tl.zeros([TILE, D], WIDE)
        sum11 = tl.zeros([TILE, D], WIDE)
        for step in range(0, CHUNK, TILE):
            place = first + step + tl.arange(0, TILE)
            given = load_given(gradient, pairs, place, there, channel, channels, WIDE)
            share = shares + place
            sum00 += tl.load(share)[:, None] * given
            sum01 += tl.load(share + samples)[:, None] * given
            sum10 += tl.load(share + 2 * samples)[:, None] * given
            sum11 += tl.load(share + 3 * samples)[:, None] * given
        to = partials + tl.program_id(0).to(tl.int64) * 4 * channels + channel
        tl.store(to, tl.sum(sum00, axis=0), mask=channel < channels)
        tl.store(to + channels, tl.sum(sum01, axis=0), mask=channel < channels)
        tl.store(to + 2 * channels, tl.sum(sum10, axis=0), mask=channel < channels)
        tl.store(to + 3 * channels, tl.sum(sum11, axis=0), mask=channel < channels)


@triton.jit
def rows_kernel(
    gradient,
    begins,
    pairs,
    shares,
    partials,
    to_value,
    samples,
    levels,
    cells,
    gaps,
    heads: tl.constexpr,
    LEVELS: tl.constexpr,
    MORE: tl.constexpr,
    channels: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One row of the gradient."""
    # Cells innermost: programs that run together read the gradients of the same queries.
    cell = tl.program_id(0) % cells
    group = (tl.program_id(0) // cells).to(tl.int64)
    width, first_cell, first_gap = cell * 0, cell * 0, cell * 0
    start = 0
    for level in tl.static_range(LEVELS):
        reached = cell >= levels[3 * level + 2]
        width = tl.where(reached, levels[3 * level + 1], width)
        first_cell = tl.where(reached, levels[3 * level + 2], first_cell)
        first_gap = tl.where(reached, start, first_gap)
        start += (levels[3 * level] + 1) * (levels[3 * level + 1] + 1)
    row = (cell - first_cell) // width
    column = (cell - first_cell) % width
    around = begins + group * gaps + first_gap + row * (width + 1) + column
    channel = tl.arange(0, D)
    lane = tl.arange(0, TILE)
    result = tl.zeros([TILE, D], WIDE)
    for corner in tl.static_range(4):
        # The cell is the low corner of the gap after it in both directions, the high corner of the one before it, and so on.
        own = around + (1 - corner // 2) * (width + 1) + 1 - corner % 2
        begin, end = tl.load(own), tl.load(own + 1)
        first = (begin + CHUNK - 1) // CHUNK
        whole = tl.maximum(end // CHUNK - first, 0)
        before, skipped = first * CHUNK - begin, whole * CHUNK
        alone = end - begin - skipped
        for step in range(0, alone, TILE):
            place = step + lane
            there = place < alone
            place += begin + tl.where(place >= before, skipped, 0)
            share = tl.load(shares + tl.cast(samples, tl.int64) * corner + place, mask=there, other=0.0)
            result += share[:, None] * load_given(gradient, pairs, place, there, channel, channels, WIDE)
        for step in range(0, whole, TILE):
            mask = (step + lane < whole)[:, None] & (channel < channels)[None, :]
            chunk = (first + step + lane).to(tl.int64) * 4 + corner
            result += tl.load(partials + (chunk * channels)[:, None] + channel[None, :], mask=mask, other=0.0)
    to = to_value + ((group // heads * cells + cell) * heads + group % heads) * channels + channel
    total = tl.sum(result, axis=0)
    if MORE:
        total += tl.load(to, mask=channel < channels, other=0.0)
    tl.store(to, total, mask=channel < channels)
