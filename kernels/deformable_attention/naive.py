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
