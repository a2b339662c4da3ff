"""What the kernels share: where a sample lies on a map, and how many channels and queries one program takes.

`levels` is always a flat tuple (height, width, first cell) per level: launch arguments, so that no table has to travel to the device and
a new size of picture compiles nothing. WIDE is the type of all arithmetic, float32 or float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDE = {torch.float16: tl.float32, torch.bfloat16: tl.float32, torch.float32: tl.float32, torch.float64: tl.float64}


def flat_levels(shapes: Sequence[int]) -> tuple[int, ...]:
    """(height, width, first cell) per level, of (height, width) per level."""
    sizes = list(zip(shapes[::2], shapes[1::2], strict=True))
    starts = accumulate((h * w for h, w in sizes[:-1]), initial=0)
    return tuple(number for (h, w), start in zip(sizes, starts, strict=True) for number in (h, w, start))


def processors(tensor: Tensor) -> int:
    """Multiprocessors of the tensor's device; the interpreter counts as two."""
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 2


@triton.jit
def axis(coordinate, size, WIDE: tl.constexpr):
    """One coordinate of samples: the lower of the two cells around each, whether the two are inside, and their shares.

    A cell outside has share 0. What is not a number has no cell inside, and shares that are no numbers either.
    """
    extent = tl.cast(size, WIDE)
    # Bounded because the fraction of an infinite position would not be a number; all that lies beyond is outside alike.
    position = coordinate.to(WIDE) * extent - 0.5
    position = tl.maximum(position, -2.0, propagate_nan=tl.PropagateNan.ALL)
    position = tl.minimum(position, extent + 1.0, propagate_nan=tl.PropagateNan.ALL)
    low = tl.floor(position)
    fraction = position - low
    nothing = position * 0.0
    low_inside = (low >= 0.0) & (low < extent)
    high_inside = (low >= -1.0) & (low < extent - 1.0)
    near = tl.where(low_inside, 1.0 - fraction, nothing)
    far = tl.where(high_inside, fraction, nothing)
    cell = tl.where(low_inside | high_inside, low, 0.0).to(tl.int32)
    return cell, low_inside, high_inside, near, far


@triton.jit
def halves(block: tl.constexpr, channels: tl.constexpr, PARTS: tl.constexpr, PART: tl.constexpr):
    """The channels of a row that each of two loads reads, [block, PART] twice; of PARTS 1 the first reads all.

    Eight threads are served at once. In 16 bits they hold half of two rows of 64 channels, which would lie in the same banks of L1 if
    every row began with its first half; every other row begins with its second.
    """
    turn = (tl.arange(0, block) % 2 * PART)[:, None] if PARTS == 2 else tl.zeros([block, 1], tl.int32)
    channel = tl.arange(0, PART)[None, :]
    return turn + channel, PART - turn + channel


@triton.jit
def load_rows(lanes, offset, inside, channel, channels: tl.constexpr, full: tl.constexpr, WIDE: tl.constexpr):
    """The given channels of rows, in WIDE, 0 where not inside and beyond the channels. `lanes` point to those channels, `offset` rows on.

    Offsets of 32 bits make an address one instruction; otherwise addresses would be a third of all.
    """
    pointers = lanes + offset[:, None]
    if full:
        found = tl.load(pointers, mask=inside[:, None], other=0.0)
    else:
        found = tl.load(pointers, mask=inside[:, None] & (channel < channels), other=0.0)
    return found.to(WIDE)
