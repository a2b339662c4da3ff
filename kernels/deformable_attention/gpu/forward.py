"""Sampling in one pass over levels and points: every number of the result is written once, by one program, in one order.

What bounds it: a sample reads four rows of d channels (4 * 128 bytes at 64 channels of 16 bits), many times what comes from HBM, so the
speed is that of the cache which holds the rows. The rows of one (image, head) of MMFS are 172 kB, which fits Hopper's L1 of 256 kB but
comes 3 to 5 times slower out of L2. Therefore queries are visited image by image, head outermost, and each program stays on its stretch
of that order as long as it lives. Loads are 16 bytes per thread; no shared memory is used, all of it stays L1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.deformable_attention.gpu.geometry import WIDE, axis, flat_levels, halves, load_rows, processors

# The arithmetic of a sample is repeated by every thread that shares its row, and is as long as that of 16 channels. So a thread takes two
# loads of 16 bytes per corner: 4 threads on a row of 64 channels in 16 bits. With all levels of a point in flight that is more registers
# than two programs could have; one program of 16 warps is what a multiprocessor holds, with 200 kB of loads in flight.
WARPS = 16
PROGRAMS = 1
LOADS = 2
# Below this many gathered bytes (50 µs out of L2) sorting the queries by image costs more than L1 gives back.
WORTH_SORTING = 2**28


class Visit(NamedTuple):
    """The order in which the tiles (block of queries, head) are taken, and by which program. It has no say in the result."""

    order: Tensor  # [Q] queries by image, or `image` itself, unused, where `by_image` is false
    by_image: bool
    block: int
    width: int
    deep: int
    tiles: int  # per program
    parts: int  # loads of a row
    long: bool  # whether offsets inside of an image need 64 bits


def visit(value: Tensor, weight: Tensor, image: Tensor) -> Visit:
    """Programs width * deep: those that share a multiprocessor, `width` apart, get neighbouring stretches."""
    queries, heads, levels, points = weight.shape
    gathered = 4 * queries * heads * levels * points * value.shape[-1] * value.element_size()
    by_image = gathered >= WORTH_SORTING and value.shape[0] > 1
    order = torch.sort(image, stable=True).indices if by_image else image
    padded = triton.next_power_of_2(value.shape[-1])
    parts = LOADS if padded >= 8 * LOADS else 1
    block = max(1, 32 * WARPS * parts * _width(value) // padded)
    tiles = triton.cdiv(queries, block) * heads
    width, deep = processors(value), PROGRAMS
    if tiles < width * deep:
        width, deep = tiles, 1
    reach = sum((size - 1) * abs(stride) for size, stride in zip(value.shape[1:], value.stride()[1:], strict=True))
    each = triton.cdiv(tiles, width * deep)
    return Visit(order, by_image, block, width, deep, each, parts, long=2 * reach >= 2**31)


def _width(value: Tensor) -> int:
    """Numbers in one load: 16 bytes, or what divides the rows."""
    return math.gcd(16 // value.element_size(), value.shape[-1])


def sample(value: Tensor, shapes: Sequence[int], location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    """[Q, H, d]; location [Q, H, L or 1, P, 2]. The device is not checked: the interpreter's tensors are on the processor."""
    queries, heads, levels, points = weight.shape
    channels = value.shape[-1]
    out = value.new_empty(queries, heads, channels)
    if out.numel() == 0 or weight.numel() == 0:
        return out.zero_()
    if value.stride(-1) != 1:
        value = value.contiguous()
    plan = visit(value, weight, image)
    with torch.cuda.device_of(value):
        forward_kernel[plan.width * plan.deep,](
            value,
            location.contiguous(),
            weight.contiguous(),
            image.contiguous(),
            plan.order,
            out,
            queries,
            flat_levels(shapes),
            value.shape[0],
            *value.stride()[:3],
            plan.width,
            plan.deep,
            plan.tiles,
            heads=heads,
            LEVELS=levels,
            POINTS=points,
            SHARED=location.shape[2] == 1,
            LONG=plan.long,
            BY_IMAGE=plan.by_image,
            channels=channels,
            PARTS=plan.parts,
            PART=triton.next_power_of_2(channels) // plan.parts,
            BLOCK=plan.block,
            WIDE=WIDE[value.dtype],
            num_warps=WARPS,
        )
    return out


@triton.jit
def tile_of(tile, image, order, queries, images, heads: tl.constexpr, BY_IMAGE: tl.constexpr, BLOCK: tl.constexpr):
    """Of one tile: its head, which queries exist, which of them name an image that exists, that image, and their (query, head) pairs."""
    blocks = tl.cdiv(queries, BLOCK)
    head = tile // blocks
    place = (tile % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = place < queries
    query = tl.load(order + place, mask=there, other=0).to(tl.int64) if BY_IMAGE else place
    picture = tl.load(image + query, mask=there, other=-1).to(tl.int64)
    return head, there, (picture >= 0) & (picture < images), picture, query * heads + head


@triton.jit
def forward_kernel(
    value,
    location,
    weight,
    image,
    order,
    out,
    queries,
    levels,
    images,
    image_stride,
    cell_stride,
    head_stride,
    width,
    deep,
    tiles,
    heads: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    SHARED: tl.constexpr,
    LONG: tl.constexpr,
    BY_IMAGE: tl.constexpr,
    channels: tl.constexpr,
    PARTS: tl.constexpr,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    program = tl.program_id(0)
    first = ((program % width) * deep + program // width) * tiles
    last = tl.minimum(first + tiles, tl.cdiv(queries, BLOCK) * heads)
    channel, other_channel = halves(BLOCK, channels, PARTS, PART)
    full: tl.constexpr = channels == PARTS * PART
    for tile in range(first, last):
        head, there, known, picture, pair = tile_of(tile, image, order, queries, images, heads, BY_IMAGE, BLOCK)
        base = value + picture * image_stride + head * head_stride
        lanes, other_lanes = base[:, None] + channel, base[:, None] + other_channel
        total = tl.zeros([BLOCK, PART], WIDE)
        other = tl.zeros([BLOCK, PART], WIDE)
        for point in range(POINTS):
            if SHARED:
                x = tl.load(location + (pair * POINTS + point) * 2, mask=there, other=0.0)
                y = tl.load(location + (pair * POINTS + point) * 2 + 1, mask=there, other=0.0)
            for level in tl.static_range(LEVELS):
                number = (pair * LEVELS + level) * POINTS + point
                if not SHARED:
                    x = tl.load(location + number * 2, mask=there, other=0.0)
                    y = tl.load(location + number * 2 + 1, mask=there, other=0.0)
                share = tl.load(weight + number, mask=there, other=0.0).to(WIDE)
                column, left, right, near_x, far_x = axis(x, levels[3 * level + 1], WIDE)
                row, above, below, near_y, far_y = axis(y, levels[3 * level], WIDE)
                up, down = near_y * share, far_y * share
                cell = levels[3 * level + 2] + row * levels[3 * level + 1] + column
                at = (cell.to(tl.int64) if LONG else cell) * cell_stride
                under = at + levels[3 * level + 1] * cell_stride
                left, right = left & known, right & known
                share00, share01 = (up * near_x)[:, None], (up * far_x)[:, None]
                share10, share11 = (down * near_x)[:, None], (down * far_x)[:, None]
                total += share00 * load_rows(lanes, at, above & left, channel, channels, full, WIDE)
                total += share01 * load_rows(lanes, at + cell_stride, above & right, channel, channels, full, WIDE)
                total += share10 * load_rows(lanes, under, below & left, channel, channels, full, WIDE)
                total += share11 * load_rows(lanes, under + cell_stride, below & right, channel, channels, full, WIDE)
                if PARTS == 2:
                    other += share00 * load_rows(other_lanes, at, above & left, other_channel, channels, full, WIDE)
                    other += share01 * load_rows(other_lanes, at + cell_stride, above & right, other_channel, channels, full, WIDE)
                    other += share10 * load_rows(other_lanes, under, below & left, other_channel, channels, full, WIDE)
                    other += share11 * load_rows(other_lanes, under + cell_stride, below & right, other_channel, channels, full, WIDE)
        # Asking whether all images exist would stop the device; a query whose image does not is no number.
        to = out + pair[:, None] * channels
        tl.store(to + channel, tl.where(known[:, None], total, float("nan")), mask=there[:, None] & (channel < channels))
        if PARTS == 2:
            mask = there[:, None] & (other_channel < channels)
            tl.store(to + other_channel, tl.where(known[:, None], other, float("nan")), mask=mask)
