"""MMFS, the multi-image multi-scale feature synchronizer (Eq. 4), computed the cheap exact way.

Offsets and logits are linear in (query + distance embedding), so each token is projected once and each distance once, and only their sum
depends on the pair of token and image. Invisible images are not sampled. The sink slot of every level and image is one extra zero logit
carrying `ignore_token`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels.deformable_attention import deformable_attention
from model.config import SamplerConfig
from model.sequence import Pairs


class MMFS(nn.Module):
    """Queries sample the maps of the images they see. State-dict names are those of the released `MMFS`."""

    real_slots: Tensor

    def __init__(self, query_width: int, value_width: int, config: SamplerConfig, base_size: int) -> None:
        super().__init__()
        self.config = config
        self.base_size = base_size
        self.level_shapes = tuple((side, side) for side in config.levels)
        heads, points, levels = config.heads, config.points, len(config.levels)
        self.dynamic_offset_mask = nn.Linear(query_width, query_width)
        self.query_relpos = nn.Embedding(config.table_rows, query_width)
        self.sampling_offsets = nn.Linear(query_width, heads * points * 2)
        self.attention_weights = nn.Linear(query_width, heads * levels * (points + 1))
        self.value_proj = nn.Linear(value_width, config.inner)
        self.output_proj = nn.Linear(config.inner, query_width)
        self.ignore_token = nn.Parameter(torch.zeros(1, 1, 1, config.inner), requires_grad=config.train_sink)
        slots = torch.arange(heads * levels * (points + 1)).view(heads * levels, points + 1)
        self.register_buffer("real_slots", slots[:, :points].flatten(), persistent=False)

    def project(self, features: Tensor) -> Tensor:
        """Value rows of the images [n, cells, value_width] as [n, cells, heads, channels]: constant over decoding and denoising steps."""
        images, cells, _ = features.shape
        heads = self.config.heads
        return self.value_proj(features).view(images, cells, heads, self.config.inner // heads)

    def forward(self, query: Tensor, value: Tensor, reference: Tensor, pairs: Pairs) -> Tensor:
        """query [N, query_width]; value from `project`; reference [N or 1, 2] as (x, y) in 0..1; returns [N, query_width].

        A query without images gets the projection of the sink.
        """
        heads, points, levels = self.config.heads, self.config.points, len(self.config.levels)
        offsets, logits = self._per_pair(query, pairs)
        centre = reference.index_select(0, pairs.query) if len(reference) > 1 else reference
        location = centre[:, None, None] + offsets.view(-1, heads, points, 2) / self.base_size
        weight, sink = softmax_with_sink(logits.view(-1, heads, levels * points), pairs.query, len(query))
        sampled = deformable_attention(value, self.level_shapes, location, weight.view(-1, heads, levels, points), pairs.image)
        mixed = sink.unsqueeze(-1) * self.ignore_token.view(1, heads, -1)
        mixed = mixed.to(sampled.dtype).index_add(0, pairs.query, sampled)
        return self.output_proj(mixed.flatten(1))

    def _per_pair(self, query: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Offsets [P, heads * points * 2] and real logits [P, heads * levels * points]: one row per query plus one per distance."""
        weight = torch.cat((self.sampling_offsets.weight, self.attention_weights.weight[self.real_slots]))
        bias = torch.cat((self.sampling_offsets.bias, self.attention_weights.bias[self.real_slots]))
        of_query = nn.functional.linear(self.dynamic_offset_mask(query), weight, bias)
        of_distance = nn.functional.linear(self.query_relpos.weight, weight)
        both = of_query.index_select(0, pairs.query) + of_distance.index_select(0, pairs.distance)
        both = both.float() if both.dtype in (torch.float16, torch.bfloat16) else both
        split: Sequence[int] = (self.sampling_offsets.out_features, len(self.real_slots))
        offsets, logits = both.split(split, dim=1)
        return offsets, logits


def softmax_with_sink(logits: Tensor, query: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """Softmax over all pairs of one query and one more logit fixed at zero.

    logits [P, H, K]; query [P] the owner of each pair. Returns weights [P, H, K] and the mass of the extra logit [queries, H].
    """
    owner = query[:, None].expand(-1, logits.shape[1])
    highest = logits.new_zeros(queries, logits.shape[1]).scatter_reduce(0, owner, logits.detach().amax(-1), "amax")
    mass = (logits - highest.index_select(0, query).unsqueeze(-1)).exp()
    total = (-highest).exp()
    sink = total
    total = total.index_add(0, query, mass.sum(-1))
    return mass / total.index_select(0, query).unsqueeze(-1), sink / total
