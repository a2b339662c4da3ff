"""The readable oracle: torch.nn.functional.grid_sample, image by image and level by level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]


def deformable_attention(value: Tensor, level_shapes: Shapes, location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    """Same arguments and result as the public function, with location [Q, H, L, P, 2]."""
    queries, heads, _, _ = weight.shape
    result = value.new_zeros(queries, heads, value.shape[-1])
    for number in image.unique().tolist():
        own = (image == number).nonzero().flatten()
        result = result.index_add(0, own, _from_one_image(value[number], level_shapes, location[own], weight[own]))
    return result


def _from_one_image(value: Tensor, level_shapes: Shapes, location: Tensor, weight: Tensor) -> Tensor:
    """value [S, H, d]; [Q, H, d] for queries that all look at this image."""
    _, heads, channels = value.shape
    result = value.new_zeros(len(weight), heads, channels)
    for level, (cells, (h, w)) in enumerate(zip(value.split([h * w for h, w in level_shapes]), level_shapes, strict=True)):
        features = cells.permute(1, 2, 0).reshape(heads, channels, h, w)
        grid = 2 * location[:, :, level].transpose(0, 1) - 1
        samples = F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        result = result + torch.einsum("hdqp,qhp->qhd", samples, weight[:, :, level])
    return result


def mmfs(value: Tensor, level_shapes: Shapes, location: Tensor, logits: Tensor, mask: Tensor, sink: Tensor) -> Tensor:
    """What MMFS computes between its linear layers (mm_interleaved.md 1.4), with images padded to N a sequence.

    value [B, N, S, H, d]; location [B, Q, N, H, P, 2], shared by the levels; logits [B, Q, N, H, L, P]; mask [B, Q, N] bool, True where a
    query sees an image; sink [H, d]: the vector of one more logit, which is 0. One softmax goes over all of a query's samples and the sink.
    Returns [B, Q, H, d]. Images that no query sees are not read.
    """
    levels = len(level_shapes)
    visible = logits.masked_fill(~mask[..., None, None, None], -torch.inf).permute(0, 1, 3, 2, 4, 5)
    slots = torch.cat((visible.flatten(3), visible.new_zeros(*visible.shape[:3], 1)), dim=-1).softmax(-1)
    weight = slots[..., :-1].view_as(visible).permute(0, 1, 3, 2, 4, 5)
    rows = []
    for row in range(len(value)):
        mixed = slots[row, :, :, -1:] * sink
        for number in range(value.shape[1]):
            own = mask[row, :, number].nonzero().flatten()
            if len(own):
                places = location[row, own, number].unsqueeze(2).expand(-1, -1, levels, -1, -1)
                mixed = mixed.index_add(0, own, _from_one_image(value[row, number], level_shapes, places, weight[row, own, number]))
        rows.append(mixed)
    return torch.stack(rows) if rows else value.new_zeros(*logits.shape[:2], *sink.shape)
