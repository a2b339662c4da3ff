"""The readable oracle: torch.nn.functional.grid_sample, level by level. Copies each query's image, so only for small shapes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_attention(
    value: Tensor, level_shapes: tuple[tuple[int, int], ...], location: Tensor, weight: Tensor, image: Tensor
) -> Tensor:
    """Same arguments and result as the public function, with location [Q, H, L, P, 2]."""
    queries, heads, _, points = weight.shape
    channels = value.shape[-1]
    maps = value[image].split([h * w for h, w in level_shapes], dim=1)
    result = value.new_zeros(queries, heads, channels)
    for level, (h, w) in enumerate(level_shapes):
        features = maps[level].permute(0, 2, 3, 1).reshape(queries * heads, channels, h, w)
        grid = 2 * location[:, :, level].reshape(queries * heads, 1, points, 2) - 1
        samples = F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        result = result + torch.einsum("qhdp,qhp->qhd", samples.reshape(queries, heads, channels, points), weight[:, :, level])
    return result
