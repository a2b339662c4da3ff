"""MMFS, the multi-image multi-scale feature synchronizer (Eq. 4), computed the cheap exact way.

Offsets and logits are linear in (query + distance embedding), so each token is projected once and each distance once, and only their sum
depends on the pair of token and image. Invisible images are not sampled. The sink slot of every level and image is one extra zero logit
carrying `ignore_token`. The literal form of the paper has no sink, and images carry their number in the document instead of their distance.

What depends on the weights alone is `Prepared`: made in every call, or once by whoever calls many times with the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels.deformable_attention import Path, deformable_attention
from model.config import SamplerConfig
from model.mmfs_linears import Linear, Linears, Prepared, linear, prepare
from model.sequence import Pairs


class MMFS(nn.Module):
    """Queries sample the maps of the images they see. State-dict names are those of the released `MMFS`."""

    real_slots: Tensor
    ignore_token: nn.Parameter | None

    def __init__(self, query_width: int, value_width: int, config: SamplerConfig, base_size: int) -> None:
        super().__init__()
        released = config.form == "release"
        self.config = config
        self.path: Path = config.path
        self.linears: Linears = config.linears
        self.heads = config.heads
        self.base_size = base_size if released else 1
        self.level_shapes = tuple((side, side) for side in config.levels)
        heads, points, levels = config.heads, config.points, len(config.levels)
        self.dynamic_offset_mask = nn.Linear(query_width, query_width)
        self.query_relpos = nn.Embedding(config.table_rows, query_width)
        self.sampling_offsets = nn.Linear(query_width, heads * points * 2)
        slots = points + released
        self.attention_weights = nn.Linear(query_width, heads * levels * slots)
        self.value_proj = nn.Linear(value_width, config.inner)
        self.output_proj = nn.Linear(config.inner, query_width)
        self.ignore_token = nn.Parameter(torch.zeros(1, 1, 1, config.inner), requires_grad=config.train_sink) if released else None
        every = torch.arange(heads * levels * slots).view(heads * levels, slots)
        self.register_buffer("real_slots", every[:, :points].flatten(), persistent=False)

    @property
    def values(self) -> nn.Linear:
        """What makes values of normalised features."""
        return self.value_proj

    @property
    def slots(self) -> int:
        """Offsets and real logits of a query; for more queries than these, folding its layers costs less than it saves."""
        return self.sampling_offsets.out_features + len(self.real_slots)

    def prepare(self, *, fold: bool = True) -> Prepared:
        """What calls with the present weights may share; gradients go through it. Folding costs what `slots` queries save."""
        weight = torch.cat((self.sampling_offsets.weight, self.attention_weights.weight[self.real_slots]))
        bias = torch.cat((self.sampling_offsets.bias, self.attention_weights.bias[self.real_slots]))
        first = Linear(self.dynamic_offset_mask.weight, self.dynamic_offset_mask.bias)
        output = Linear(self.output_proj.weight, self.output_proj.bias)
        return prepare(first, Linear(weight, bias), self.query_relpos.weight, output, self.linears, fold=fold)

    def project(self, features: Tensor) -> Tensor:
        """Value rows of the images [n, cells, value_width] as [n, cells, heads, channels]: constant over decoding and denoising steps."""
        return linear(self.value_proj.weight, self.value_proj.bias, self.linears)(features).unflatten(-1, (self.heads, -1))

    def forward(self, query: Tensor, value: Tensor, reference: Tensor, pairs: Pairs, prepared: Prepared | None = None) -> Tensor:
        """query [N, query_width]; value from `project`; reference [N or 1, 2] as (x, y) in 0..1; returns [N, query_width].

        A query without images gets `unseen`. Without `prepared` the weights are those of now, and folded where that is less arithmetic.
        """
        heads, points, levels = self.config.heads, self.config.points, len(self.config.levels)
        prepared = self.prepare(fold=len(query) > self.slots) if prepared is None else prepared
        offsets, logits = self._per_pair(prepared, query, pairs)
        centre = reference.index_select(0, pairs.query) if len(reference) > 1 else reference
        location = centre[:, None, None] + offsets.view(-1, heads, points, 2) / self.base_size
        weight, sink = softmax_over_pairs(
            logits.view(-1, heads, levels * points), pairs.query, len(query), sink=self.ignore_token is not None
        )
        weight = weight.view(-1, heads, levels, points)
        sampled = deformable_attention(value, self.level_shapes, location, weight, pairs.image, path=self.path)
        if self.ignore_token is None:
            mixed = sampled.new_zeros(len(query), *sampled.shape[1:])
        else:
            mixed = (sink.unsqueeze(-1) * self.ignore_token.view(1, heads, -1)).to(sampled.dtype)
        return prepared.output(mixed.index_add(0, pairs.query, sampled).flatten(1))

    def unseen(self) -> Tensor:
        """What a query that sees no image gets, [1, query_width]: the projection of the sink, or of nothing."""
        empty = self.output_proj.weight.new_zeros(1, self.config.inner) if self.ignore_token is None else self.ignore_token.view(1, -1)
        return self.output_proj(empty)

    def _per_pair(self, prepared: Prepared, query: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Offsets [P, heads * points * 2] and real logits [P, heads * levels * points]: one row per query plus one per image."""
        of_query = prepared.slots(query).index_select(0, pairs.query)
        both = of_query + prepared.of_image.index_select(0, self._image_numbers(pairs, len(query)))
        both = both.float() if both.dtype in (torch.float16, torch.bfloat16) else both
        split: Sequence[int] = (self.sampling_offsets.out_features, len(self.real_slots))
        offsets, logits = both.split(split, dim=1)
        return offsets, logits

    def _image_numbers(self, pairs: Pairs, queries: int) -> Tensor:
        """Row of the table per pair: 1 for the newest image, or in the paper's form 1 for the oldest that the query sees."""
        if self.config.form == "release":
            return pairs.distance
        return pairs.query.bincount(minlength=queries).index_select(0, pairs.query) - pairs.distance + 1


def softmax_over_pairs(logits: Tensor, query: Tensor, queries: int, *, sink: bool) -> tuple[Tensor, Tensor]:
    """Softmax over all pairs of one query and, with `sink`, one more logit fixed at zero.

    logits [P, H, K]; query [P] the owner of each pair. Returns weights [P, H, K] and the mass of the extra logit [queries, H].
    """
    owner = query[:, None].expand(-1, logits.shape[1])
    highest = logits.new_zeros(queries, logits.shape[1]).scatter_reduce(0, owner, logits.detach().amax(-1), "amax", include_self=sink)
    mass = (logits - highest.index_select(0, query).unsqueeze(-1)).exp()
    extra = (-highest).exp() if sink else torch.zeros_like(highest)
    total = extra.index_add(0, query, mass.sum(-1))
    return mass / total.index_select(0, query).unsqueeze(-1), extra / total if sink else extra
