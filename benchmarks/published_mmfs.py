"""The peer of benchmarks.mmfs: MMFS as it is published (mm_interleaved.md 1.4 and 7), plainly, with the parameters of our module.

Every query is repeated for every image and goes through all layers there, images that it does not see are masked and sampled all the same,
each level of each image is one grid_sample, and values are projected in every call.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.mmfs import MMFS


def published(module: MMFS, query: Tensor, features: Tensor, mask: Tensor, reference: Tensor) -> Tensor:
    """query [B, Q, query_width], features [B, N, cells, value_width], mask [B, Q, N] 0 or 1, reference [Q or 1, 2]; [B, Q, query_width]."""
    config = module.config
    rows, queries, images = mask.shape
    heads, points, levels = config.heads, config.points, len(config.levels)
    distance = mask * (mask.sum(-1, keepdim=True) + 1 - mask.cumsum(-1))
    repeated = query.unsqueeze(2).expand(-1, -1, images, -1)
    of_image = module.dynamic_offset_mask(repeated.contiguous()) + module.query_relpos(distance)
    offsets = module.sampling_offsets(of_image).view(rows, queries, images, heads, 1, points, 2).expand(-1, -1, -1, -1, levels, -1, -1)
    scale = query.new_tensor(config.levels).view(levels, 1, 1)
    location = reference.view(-1, 1, 1, 1, 1, 2) + offsets * (scale / module.base_size) / scale
    logits = module.attention_weights(of_image).view(rows, queries, images, heads, levels, points + 1)
    logits = logits - 10000.0 * (1 - mask)[..., None, None, None]
    sink_slot = torch.zeros_like(logits, dtype=torch.bool)
    sink_slot[..., points] = True
    logits = logits.masked_fill(sink_slot, -math.log(images * levels))
    weight = logits.permute(0, 1, 3, 2, 4, 5).flatten(3).softmax(-1).view(rows, queries, heads, images * levels, points + 1)
    value = module.value_proj(features).view(rows, images * features.shape[2], heads, -1)
    mixed = _sampled(value, config.levels, images, location, weight[..., :points])
    assert module.ignore_token is not None  # the released form has one
    sink = weight[..., points].sum(-1, keepdim=True) * module.ignore_token.view(heads, -1)
    return module.output_proj((mixed + sink).flatten(2))


def _sampled(value: Tensor, levels: tuple[int, ...], images: int, location: Tensor, weight: Tensor) -> Tensor:
    """value [B, N * cells, H, d], location [B, Q, N, H, L, P, 2], weight [B, Q, H, N * L, P]; [B, Q, H, d]."""
    rows, queries, heads, slots, points = weight.shape
    parts = value.split([side * side for side in levels] * images, dim=1)
    grids = (2 * location - 1).permute(0, 3, 1, 2, 4, 5, 6).reshape(rows * heads, queries, slots, points, 2)
    samples = []
    for number, part in enumerate(parts):
        side = levels[number % len(levels)]
        maps = part.flatten(2).transpose(1, 2).reshape(rows * heads, -1, side, side)
        samples.append(F.grid_sample(maps, grids[:, :, number], mode="bilinear", padding_mode="zeros", align_corners=False))
    factors = weight.transpose(1, 2).reshape(rows * heads, 1, queries, slots * points)
    summed = (torch.stack(samples, dim=-2).flatten(-2) * factors).sum(-1)
    return summed.view(rows, heads, -1, queries).permute(0, 3, 1, 2)
