"""The gradient of value, deterministic and without atomics: sort the samples by where they lie, then every row has one writer.

A sample touches four cells, but lies in one gap between them; there are (h + 1) * (w + 1) gaps on a map, its border included. The samples
are sorted by (image, head, gap), stably, once: a quarter of the records that corners would be. The program of a row then adds what lies in
the four gaps around its cell, each sample with share (1 - |dx|) * (1 - |dy|), in the order of the sort. Where a gap holds whole chunks
of CHUNK consecutive sorted samples, their sums were made before, one program per chunk, so that a cell that everybody looks at is not
added up by one program alone.

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
# Records of one tile: enough independent loads to hide their latency, few enough that a short gap does not waste them. One warp
# per row: as many rows as possible are in flight.
TILE = 16
# Samples sorted at once. Bounds the scratch memory (24 bytes per sample and the sort's own) and what torch.sort can count.
PIECE = 2**27
LOCATE_BLOCK = 1024


def value_gradient(
    gradient: Tensor, value: Tensor, shapes: Sequence[int], location: Tensor, weight: Tensor, image: Tensor, piece: int = PIECE
) -> Tensor:
    """[n, S, H, d] in the type of value; the inputs beside value are contiguous. Queries beyond `piece` samples follow in a second turn."""
    if weight.numel() == 0 or value.numel() == 0:
        return torch.zeros_like(value, memory_format=torch.contiguous_format)
    queries = max(1, piece // max(1, weight[0].numel()))
    many = len(weight) > queries
    to_value = torch.empty(value.shape, device=value.device, dtype=torch.promote_types(value.dtype, torch.float32) if many else value.dtype)
    with torch.cuda.device_of(value):
        for first in range(0, len(weight), queries):
            own = slice(first, first + queries)
            _add(to_value, first > 0, gradient[own], flat_levels(shapes), location[own], weight[own], image[own])
    return to_value.to(value.dtype)


def _add(to_value: Tensor, more: bool, gradient: Tensor, levels: tuple[int, ...], location: Tensor, weight: Tensor, image: Tensor) -> None:
    images, cells, heads, channels = to_value.shape
    samples, gaps = weight.numel(), sum((h + 1) * (w + 1) for h, w in zip(levels[::3], levels[1::3], strict=True))
    segments = images * heads * gaps
    keys = torch.empty(samples, device=weight.device, dtype=torch.int32 if segments < 2**31 - 1 else torch.int64)
    wide = WIDE[gradient.dtype]
    common = {"heads": heads, "LEVELS": weight.shape[2], "POINTS": weight.shape[3], "SHARED": location.shape[2] == 1, "WIDE": wide}
    locate_kernel[triton.cdiv(samples, LOCATE_BLOCK),](
        location, weight, image, keys, samples, images, levels, gaps, segments, BLOCK=LOCATE_BLOCK, **common, num_warps=4
    )
    keys, order = torch.sort(keys, stable=True)
    bounds = torch.arange(segments + 1, device=keys.device, dtype=keys.dtype)
    begins = torch.searchsorted(keys, bounds, out_int32=samples < 2**31)
    common |= {"channels": channels, "D": triton.next_power_of_2(channels), "TILE": TILE, "CHUNK": CHUNK}
    chunks = samples // CHUNK
    partials = torch.empty(max(1, chunks), 4, channels, device=keys.device, dtype=torch.promote_types(gradient.dtype, torch.float32))
    if chunks:
        chunks_kernel[chunks,](gradient, location, weight, keys, order, partials, levels, gaps, segments, **common, num_warps=4)
    rows_kernel[images * cells * heads,](
        gradient, location, weight, begins, order, partials, to_value, levels, cells, gaps, MORE=more, **common, num_warps=1
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
    place = pair.to(tl.int64) * POINTS + number % POINTS if SHARED else number.to(tl.int64)
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
def shares_of(
    number, location, weight, width, height, there, LEVELS: tl.constexpr, POINTS: tl.constexpr, SHARED: tl.constexpr, WIDE: tl.constexpr
):
    """Position in cells and weight of samples, 0 where not there."""
    place = number // (LEVELS * POINTS) * POINTS + number % POINTS if SHARED else number
    x = tl.load(location + place * 2, mask=there, other=0.0).to(WIDE) * tl.cast(width, WIDE) - 0.5
    y = tl.load(location + place * 2 + 1, mask=there, other=0.0).to(WIDE) * tl.cast(height, WIDE) - 0.5
    share = tl.load(weight + number, mask=there, other=0.0).to(WIDE)
    return x, y, share


@triton.jit
def chunks_kernel(
    gradient,
    location,
    weight,
    keys,
    order,
    partials,
    levels,
    gaps,
    segments,
    heads: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    SHARED: tl.constexpr,
    WIDE: tl.constexpr,
    channels: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """[chunk, corner, d]: the sums of a chunk for the four cells around its gap, where it lies in one gap; else untouched."""
    chunk = tl.program_id(0).to(tl.int64)
    key = tl.load(keys + chunk * CHUNK)
    if (key == tl.load(keys + chunk * CHUNK + CHUNK - 1)) & (key < segments):
        gap = (key % gaps).to(tl.int32)
        height, width, begin = gap * 0, gap * 0, gap * 0
        start = 0
        for level in tl.static_range(LEVELS):
            height = tl.where(gap >= start, levels[3 * level], height)
            width = tl.where(gap >= start, levels[3 * level + 1], width)
            begin = tl.where(gap >= start, start, begin)
            start += (levels[3 * level] + 1) * (levels[3 * level + 1] + 1)
        row = (gap - begin) // (width + 1) - 1
        column = (gap - begin) % (width + 1) - 1
        channel = tl.arange(0, D)
        known = channel < channels
        sum00 = tl.zeros([TILE, D], WIDE)
        sum01 = tl.zeros([TILE, D], WIDE)
        sum10 = tl.zeros([TILE, D], WIDE)
        sum11 = tl.zeros([TILE, D], WIDE)
        there = tl.full([TILE], 1, tl.int1)
        for step in range(CHUNK // TILE):
            number = tl.load(order + chunk * CHUNK + step * TILE + tl.arange(0, TILE))
            x, y, share = shares_of(number, location, weight, width, height, there, LEVELS, POINTS, SHARED, WIDE)
            pointers = gradient + (number // (LEVELS * POINTS) * channels)[:, None] + channel[None, :]
            given = tl.load(pointers, mask=known[None, :], other=0.0).to(WIDE)
            far_x, far_y = x - column, y - row
            near_x, near_y = 1.0 - far_x, 1.0 - far_y
            sum00 += (share * near_y * near_x)[:, None] * given
            sum01 += (share * near_y * far_x)[:, None] * given
            sum10 += (share * far_y * near_x)[:, None] * given
            sum11 += (share * far_y * far_x)[:, None] * given
        to = partials + chunk * 4 * channels + channel
        tl.store(to, tl.sum(sum00, axis=0), mask=known)
        tl.store(to + channels, tl.sum(sum01, axis=0), mask=known)
        tl.store(to + 2 * channels, tl.sum(sum10, axis=0), mask=known)
        tl.store(to + 3 * channels, tl.sum(sum11, axis=0), mask=known)


@triton.jit
def stretch(begins, segment, CHUNK: tl.constexpr):
    """Of one gap in the sorted samples: begin, how many are added one by one, how many of those come before its whole chunks,
    the first whole chunk, and how many there are."""
    begin = tl.load(begins + segment).to(tl.int64)
    end = tl.load(begins + segment + 1).to(tl.int64)
    first = (begin + CHUNK - 1) // CHUNK
    whole = tl.maximum(end // CHUNK - first, 0)
    return begin, end - begin - whole * CHUNK, first * CHUNK - begin, first, whole


@triton.jit
def rows_kernel(
    gradient,
    location,
    weight,
    begins,
    order,
    partials,
    to_value,
    levels,
    cells,
    gaps,
    MORE: tl.constexpr,
    heads: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    SHARED: tl.constexpr,
    WIDE: tl.constexpr,
    channels: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One row of the gradient: the samples in the four gaps around it as one sequence, then the chunks."""
    # Cells innermost: programs that run together read the gradients of the same queries.
    cell = tl.program_id(0) % cells
    group = (tl.program_id(0) // cells).to(tl.int64)
    height, width, first, begin = cell * 0, cell * 0, cell * 0, cell * 0
    start = 0
    for level in tl.static_range(LEVELS):
        reached = cell >= levels[3 * level + 2]
        height = tl.where(reached, levels[3 * level], height)
        width = tl.where(reached, levels[3 * level + 1], width)
        first = tl.where(reached, levels[3 * level + 2], first)
        begin = tl.where(reached, start, begin)
        start += (levels[3 * level] + 1) * (levels[3 * level + 1] + 1)
    row = (cell - first) // width
    column = (cell - first) % width
    # The four gaps around the cell, numbered by which of the gap's corners the cell is.
    segment = group * gaps + begin + row * (width + 1) + column
    begin3, count3, head3, first3, whole3 = stretch(begins, segment, CHUNK)
    begin2, count2, head2, first2, whole2 = stretch(begins, segment + 1, CHUNK)
    begin1, count1, head1, first1, whole1 = stretch(begins, segment + width + 1, CHUNK)
    begin0, count0, head0, first0, whole0 = stretch(begins, segment + width + 2, CHUNK)
    after0 = count0
    after1 = after0 + count1
    after2 = after1 + count2
    total = after2 + count3
    channel = tl.arange(0, D)
    known = channel < channels
    result = tl.zeros([TILE, D], WIDE)
    lane = tl.arange(0, TILE).to(tl.int64)
    for step in range(0, total, TILE):
        place = step + lane
        there = place < total
        second, third, fourth = place >= after0, place >= after1, place >= after2
        place -= tl.where(fourth, after2, tl.where(third, after1, tl.where(second, after0, 0)))
        head = tl.where(fourth, head3, tl.where(third, head2, tl.where(second, head1, head0)))
        skipped = tl.where(fourth, whole3, tl.where(third, whole2, tl.where(second, whole1, whole0))) * CHUNK
        begin = tl.where(fourth, begin3, tl.where(third, begin2, tl.where(second, begin1, begin0)))
        number = tl.load(order + begin + place + tl.where(place >= head, skipped, 0), mask=there, other=0)
        x, y, share = shares_of(number, location, weight, width, height, there, LEVELS, POINTS, SHARED, WIDE)
        share = share * (1.0 - tl.abs(y - row)) * (1.0 - tl.abs(x - column))
        pointers = gradient + (number // (LEVELS * POINTS) * channels)[:, None] + channel[None, :]
        given = tl.load(pointers, mask=there[:, None] & known[None, :], other=0.0).to(WIDE)
        result += share[:, None] * given
    for corner in tl.static_range(4):
        first = first0 if corner == 0 else first1 if corner == 1 else first2 if corner == 2 else first3
        whole = whole0 if corner == 0 else whole1 if corner == 1 else whole2 if corner == 2 else whole3
        for step in range(0, whole, TILE):
            there = step + lane < whole
            pointers = partials + (((first + step + lane) * 4 + corner) * channels)[:, None] + channel[None, :]
            result += tl.load(pointers, mask=there[:, None] & known[None, :], other=0.0)
    to = to_value + ((group // heads * cells + cell) * heads + group % heads) * channels + channel
    row_sum = tl.sum(result, axis=0)
    if MORE:
        row_sum += tl.load(to, mask=known, other=0.0)
    tl.store(to, row_sum, mask=known)
