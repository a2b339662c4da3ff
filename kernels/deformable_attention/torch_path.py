"""The path that is always there: a bag of weighted rows per (query, head), pure PyTorch on any device.

Sampling is a sum of rows of a table, which is what `embedding_bag` computes without materialising the rows. Its own gradient of the
table is slow and adds in no fixed order; here the corners are sorted by row once, and the gradient is a second `embedding_bag` over
the incoming gradient: fast and bit-reproducible. The bilinear arithmetic has its gradient written out, which halves the passes over
the samples.
"""

from __future__ import annotations

import warnings
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Shapes = tuple[tuple[int, int], ...]
_EXACT = 2**24  # float32 counts cells exactly below


def deformable_attention(value: Tensor, level_shapes: Shapes, location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    """Same arguments and result as the public function, with location [Q, H, L, P, 2]."""
    images, cells, heads, channels = value.shape
    table = value.reshape(images * cells * heads, channels)
    whole = index_type(table.shape[0], 4 * weight.numel())
    head = torch.arange(heads, device=value.device, dtype=whole)
    first_row = image.to(whole)[:, None] * (cells * heads) + head
    wide = torch.promote_types(torch.promote_types(location.dtype, weight.dtype), torch.float32)
    if cells >= _EXACT:
        wide = torch.float64
    return _Samples.apply(table, location.to(wide), weight.to(wide), first_row, level_shapes)


def index_type(rows: int, corners: int) -> torch.dtype:
    """The smaller integers are faster, as long as they can number all rows of the table and all corners."""
    return torch.int32 if max(rows, corners) < 2**31 else torch.int64


class _Axis(NamedTuple):
    """One coordinate of every sample: the two cells around it. One outside is cell 0 with share 0, what is not a number stays so."""

    low: Tensor
    high: Tensor
    near: Tensor
    far: Tensor
    low_inside: Tensor
    high_inside: Tensor


def _axis(coordinate: Tensor, size: Tensor) -> _Axis:
    # Bounded because the fraction of an infinite position would not be a number; all that lies beyond is outside alike.
    position = (coordinate * size - 0.5).clamp_(-2, 2.0**40)
    low = position.floor()
    fraction = position - low
    low_inside = (low >= 0) & (low < size)
    high_inside = (low >= -1) & (low < size - 1)
    return _Axis(
        low=torch.where(low_inside, low, 0.0),
        high=torch.where(high_inside, low + 1, 0.0),
        near=(1 - fraction) * low_inside,
        far=fraction * high_inside,
        low_inside=low_inside,
        high_inside=high_inside,
    )


class _Samples(torch.autograd.Function):
    """out[q, h] = sum over samples and their four corners of weight * share * table[row]."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, location: Tensor, weight: Tensor, first_row: Tensor, shapes: Shapes) -> Tensor:
        queries, heads = first_row.shape
        height, width, start = _level_sizes(shapes, location)
        x, y = _axis(location[..., 0], width), _axis(location[..., 1], height)
        below, above = y.low * width + start, y.high * width + start
        cell = torch.stack((below + x.low, below + x.high, above + x.low, above + x.high), dim=2).to(first_row.dtype)
        index = (cell * heads + first_row[:, :, None, None, None]).flatten(0, 1).flatten(1)
        down, up = y.near * weight, y.far * weight
        shares = torch.stack((down * x.near, down * x.far, up * x.near, up * x.far), dim=2).flatten(0, 1).flatten(1).to(table.dtype)
        ctx.save_for_backward(table, weight, index, shares, height, width, *x[2:], *y[2:])
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=shares).view(queries, heads, table.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        table, weight, index, shares, height, width, *axes = ctx.saved_tensors
        gradient = gradients[0].flatten(0, 1).contiguous()
        to_table = _table_gradient(gradient, index, shares, len(table)) if ctx.needs_input_grad[0] else None
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return to_table, None, None, None, None
        x_near, x_far, x_low, x_high, y_near, y_far, y_low, y_high = axes
        queries, heads, levels, points = weight.shape
        corners = _corner_gradient(gradient, index, table).to(weight.dtype).view(queries, heads, 4, levels, points)
        c00, c01, c10, c11 = corners.unbind(2)
        below, above = c00 * x_near + c01 * x_far, c10 * x_near + c11 * x_far
        left, right = c00 * y_near + c10 * y_far, c01 * y_near + c11 * y_far
        to_weight = below * y_near + above * y_far
        to_x = (right * x_high - left * x_low) * weight * width
        to_y = (above * y_high - below * y_low) * weight * height
        return to_table, torch.stack((to_x, to_y), dim=-1), to_weight, None, None


def _level_sizes(shapes: Shapes, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Heights, widths and first cells of the levels, each [L, 1]; exact in floating point, see `_EXACT`."""
    starts = accumulate((h * w for h, w in shapes[:-1]), initial=0)
    return tuple(like.new_tensor([(h, w, s) for (h, w), s in zip(shapes, starts, strict=True)]).T.unsqueeze(-1))


def _table_gradient(gradient: Tensor, index: Tensor, shares: Tensor, rows: int) -> Tensor:
    """Sum over the corners that touch each row, in the order of the bags."""
    ordered, order = torch.sort(index.flatten(), stable=True)
    bounds = torch.arange(rows, dtype=index.dtype, device=index.device)
    offsets = torch.searchsorted(ordered, bounds, out_int32=index.dtype == torch.int32)
    bag = torch.div(order, index.shape[1], rounding_mode="floor").to(index.dtype)
    return F.embedding_bag(bag, gradient, offsets, mode="sum", per_sample_weights=shares.flatten().index_select(0, order))


def _corner_gradient(gradient: Tensor, index: Tensor, table: Tensor) -> Tensor:
    """The dot product of each touched row with its bag's gradient, [bags, corners]."""
    if table.device.type == "cpu":
        return _dots(gradient, index, table)
    bags, corners = index.shape
    offsets = torch.arange(0, bags * corners, corners, dtype=index.dtype, device=index.device)
    owner = torch.arange(bags, dtype=index.dtype, device=index.device).repeat_interleave(corners, output_size=bags * corners)
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(gradient, table, index.flatten(), offsets, owner, 0)
    return dots.view(bags, corners)


@torch.library.custom_op("mmfs::dots", mutates_args=())
def _dots(gradient: Tensor, index: Tensor, table: Tensor) -> Tensor:
    """The same as a sampled product, which takes half the time on a processor. An operator, for no graph knows sparse tensors."""
    bags, corners = index.shape
    wide = torch.promote_types(table.dtype, torch.float32)
    rows = torch.arange(0, bags * corners + 1, corners, dtype=index.dtype) if bags else index.new_zeros(1)
    zeros = table.new_zeros(bags * corners, dtype=wide)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        # A row that is touched twice has two places, which the format's checks would refuse.
        places = torch.sparse_csr_tensor(rows, index.flatten(), zeros, (bags, len(table)), check_invariants=False)
        found = torch.sparse.sampled_addmm(places, gradient.to(wide), table.to(wide).t(), beta=0.0)
    return found.values().view(bags, corners)


@_dots.register_fake
def _(gradient: Tensor, index: Tensor, table: Tensor) -> Tensor:
    return table.new_empty(index.shape, dtype=torch.promote_types(table.dtype, torch.float32))
