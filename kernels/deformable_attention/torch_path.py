"""The path that is always there: a bag of weighted rows per (query, head), pure PyTorch on any device.

Sampling is a sum of rows of a table, which is what `embedding_bag` computes without materialising the rows. Its own gradient of the table is slow
and adds in no fixed order; here the corners are sorted by row once, and the gradient is a second `embedding_bag` over the incoming gradient:
fast and bit-reproducible.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def deformable_attention(value: Tensor, level_shapes: tuple[tuple[int, int], ...], location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    """Same arguments and result as the public function, with location [Q, H, L, P, 2]."""
    images, cells, heads, channels = value.shape
    queries = weight.shape[0]
    index, corner_weight = _corners(level_shapes, location, weight)
    head = torch.arange(heads, device=value.device, dtype=torch.int32)[:, None, None, None]
    index = (index + image.to(torch.int32)[:, None, None, None, None] * cells) * heads + head
    table = value.reshape(images * cells * heads, channels)
    bags = _Bags.apply(table, index.flatten(0, 1).flatten(1), corner_weight.to(value.dtype).flatten(0, 1).flatten(1))
    return bags.view(queries, heads, channels)


def _corners(level_shapes: tuple[tuple[int, int], ...], location: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The four cells around each location [Q, H, L, P, 4] and their bilinear weight times the point's; outside the map the weight is 0."""
    sizes = location.new_tensor([(w, h) for h, w in level_shapes])[:, None]
    starts, total = [], 0
    for h, w in level_shapes:
        starts.append(total)
        total += h * w
    position = location * sizes - 0.5
    low = position.detach().floor()
    fraction = position - low
    near, far = 1 - fraction, fraction
    share = torch.stack((near[..., 0] * near[..., 1], far[..., 0] * near[..., 1], near[..., 0] * far[..., 1], far[..., 0] * far[..., 1]), -1)
    # A far-away location would overflow the integers below; one cell outside is already worth nothing.
    cell = torch.minimum(low.clamp(min=-2), sizes + 1).to(torch.int32)
    limits = sizes.to(torch.int32)
    x = torch.stack((cell[..., 0], cell[..., 0] + 1), -1)
    y = torch.stack((cell[..., 1], cell[..., 1] + 1), -1)
    width, height = limits[..., 0, None], limits[..., 1, None]
    inside = (((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]).flatten(-2)
    first = torch.tensor(starts, dtype=torch.int32, device=location.device)[:, None, None]
    index = ((y * width)[..., :, None] + x[..., None, :]).flatten(-2) + first
    return torch.where(inside, index, 0), torch.where(inside, share * weight.unsqueeze(-1), 0.0)


class _Bags(torch.autograd.Function):
    """out[b] = sum_k weight[b, k] * table[index[b, k]]."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, weight)
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, index, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        table_gradient = _table_gradient(gradient, index, weight, table.shape[0]) if ctx.needs_input_grad[0] else None
        weight_gradient = _weight_gradient(gradient, index, table) if ctx.needs_input_grad[2] else None
        return table_gradient, None, weight_gradient


def _table_gradient(gradient: Tensor, index: Tensor, weight: Tensor, rows: int) -> Tensor:
    """Sum over the corners that touch each row, in the order of the bags."""
    ordered, order = torch.sort(index.flatten(), stable=True)
    bounds = torch.arange(rows, dtype=torch.int32, device=index.device)
    offsets = torch.searchsorted(ordered, bounds, out_int32=True)
    bag = torch.div(order, index.shape[1], rounding_mode="floor").to(torch.int32)
    return F.embedding_bag(bag, gradient, offsets, mode="sum", per_sample_weights=weight.flatten()[order])


def _weight_gradient(gradient: Tensor, index: Tensor, table: Tensor) -> Tensor:
    """The dot product of each touched row with its bag's gradient, [bags, corners]."""
    bags, corners = index.shape
    offsets = torch.arange(0, bags * corners, corners, dtype=torch.int32, device=index.device)
    owner = torch.arange(bags, dtype=torch.int32, device=index.device).repeat_interleave(corners)
    flat = torch.ops.aten._embedding_bag_per_sample_weights_backward(gradient, table, index.flatten(), offsets, owner, 0)
    return flat.view(bags, corners)
