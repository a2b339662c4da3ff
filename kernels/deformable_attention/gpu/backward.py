"""The gradients of location and weight: each number belongs to one (query, head), whose program computes it without help.

The same walk as forward's: four dots of a corner's row with the incoming gradient per sample give the gradient of the weight and, as
differences, of the location. Bound by the same cache, plus twelve shuffles per sample for the dots.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.deformable_attention.gpu.forward import WARPS, tile_of, visit
from kernels.deformable_attention.gpu.geometry import WIDE, axis, flat_levels, halves, load_rows
from kernels.deformable_attention.gpu.rows import value_gradient


def gradients(
    gradient: Tensor, value: Tensor, shapes: Sequence[int], location: Tensor, weight: Tensor, image: Tensor, wanted: Sequence[bool]
) -> list[Tensor]:
    """The gradients of value, location and weight, each in its input's type; an empty tensor for one that is not wanted."""
    location, weight, image, gradient = (tensor.contiguous() for tensor in (location, weight, image, gradient))
    to_value = value_gradient(gradient, value, shapes, location, weight, image) if wanted[0] else value.new_empty(0)
    if not (wanted[1] or wanted[2]):
        return [to_value, location.new_empty(0), weight.new_empty(0)]
    to_location, to_weight = _sample_gradients(gradient, value, shapes, location, weight, image)
    return [to_value, to_location if wanted[1] else location.new_empty(0), to_weight if wanted[2] else weight.new_empty(0)]


def _sample_gradients(
    gradient: Tensor, value: Tensor, shapes: Sequence[int], location: Tensor, weight: Tensor, image: Tensor
) -> tuple[Tensor, Tensor]:
    queries, heads, levels, points = weight.shape
    channels = value.shape[-1]
    to_location, to_weight = torch.empty_like(location), torch.empty_like(weight)
    if weight.numel() == 0 or value.numel() == 0:
        return to_location.zero_(), to_weight.zero_()
    if value.stride(-1) != 1:
        value = value.contiguous()
    plan = visit(value, weight, image)
    with torch.cuda.device_of(value):
        sample_gradients_kernel[plan.width * plan.deep,](
            gradient,
            value,
            location,
            weight,
            image,
            plan.order,
            to_location,
            to_weight,
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
    return to_location, to_weight


@triton.jit
def sample_gradients_kernel(
    gradient,
    value,
    location,
    weight,
    image,
    order,
    to_location,
    to_weight,
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
        given = load_rows(gradient + channel, pair * channels, there, channel, channels, full, WIDE)
        if PARTS == 2:
            other = load_rows(gradient + other_channel, pair * channels, there, other_channel, channels, full, WIDE)
        for point in range(POINTS):
            to_x = tl.zeros([BLOCK], WIDE)
            to_y = tl.zeros([BLOCK], WIDE)
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
                cell = levels[3 * level + 2] + row * levels[3 * level + 1] + column
                at = (cell.to(tl.int64) if LONG else cell) * cell_stride
                under = at + levels[3 * level + 1] * cell_stride
                left, right = left & known, right & known
                # The dot of a cell outside is 0, so that only slopes towards cells inside count.
                part00 = load_rows(lanes, at, above & left, channel, channels, full, WIDE) * given
                part01 = load_rows(lanes, at + cell_stride, above & right, channel, channels, full, WIDE) * given
                part10 = load_rows(lanes, under, below & left, channel, channels, full, WIDE) * given
                part11 = load_rows(lanes, under + cell_stride, below & right, channel, channels, full, WIDE) * given
                if PARTS == 2:
                    part00 += load_rows(other_lanes, at, above & left, other_channel, channels, full, WIDE) * other
                    part01 += load_rows(other_lanes, at + cell_stride, above & right, other_channel, channels, full, WIDE) * other
                    part10 += load_rows(other_lanes, under, below & left, other_channel, channels, full, WIDE) * other
                    part11 += load_rows(other_lanes, under + cell_stride, below & right, other_channel, channels, full, WIDE) * other
                dot00, dot01 = tl.sum(part00, axis=1), tl.sum(part01, axis=1)
                dot10, dot11 = tl.sum(part10, axis=1), tl.sum(part11, axis=1)
                found = near_y * (near_x * dot00 + far_x * dot01) + far_y * (near_x * dot10 + far_x * dot11)
                tl.store(to_weight + number, found, mask=there)
                slope_x = (near_y * (dot01 - dot00) + far_y * (dot11 - dot10)) * share * tl.cast(levels[3 * level + 1], WIDE)
                slope_y = (near_x * (dot10 - dot00) + far_x * (dot11 - dot01)) * share * tl.cast(levels[3 * level], WIDE)
                if SHARED:
                    to_x += slope_x
                    to_y += slope_y
                else:
                    tl.store(to_location + number * 2, slope_x, mask=there)
                    tl.store(to_location + number * 2 + 1, slope_y, mask=there)
            if SHARED:
                tl.store(to_location + (pair * POINTS + point) * 2, to_x, mask=there)
                tl.store(to_location + (pair * POINTS + point) * 2 + 1, to_y, mask=there)
