"""How a query looks at images: MMFS, or one of the two dense forms that the paper compares it with (Table 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import CrossAttention, SamplerConfig
from model.mmfs import MMFS
from model.mmfs_linears import Linears, Prepared
from model.sequence import Pairs


class DenseAttention(nn.Module):
    """Multi-head attention over all cells, or visual tokens, of the images a query sees, under one softmax.

    Images are told apart by a table of distances, as in MMFS. It reads every cell of every image of the batch under a mask: it is there to
    be compared with, not to be fast.
    """

    def __init__(self, query_width: int, value_width: int, config: SamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.linears: Linears = "own"
        self.heads = config.heads
        self.query_proj = nn.Linear(query_width, config.inner)
        self.key_value_proj = nn.Linear(value_width, 2 * config.inner)
        self.output_proj = nn.Linear(config.inner, query_width)
        self.query_relpos = nn.Embedding(config.table_rows, config.heads)

    @property
    def values(self) -> nn.Linear:
        """What makes keys and values of normalised features."""
        return self.key_value_proj

    def prepare(self, *, fold: bool = True) -> None:
        """Nothing: none of its layers follow one another."""
        del fold

    def project(self, features: Tensor) -> Tensor:
        """Keys and values of the images [n, cells, value_width] as [n, cells, heads, 2 * channels]."""
        return self.key_value_proj(features).unflatten(-1, (self.config.heads, -1))

    def forward(self, query: Tensor, value: Tensor, reference: Tensor, pairs: Pairs, prepared: Prepared | None = None) -> Tensor:
        """query [N, query_width]; value from `project`; the reference point is not used; returns [N, query_width]."""
        del reference, prepared
        images, cells, heads, _ = value.shape
        if not images:
            return self.unseen().expand(len(query), -1)
        bias = value.new_full((heads, len(query), images), -torch.inf)
        bias[:, pairs.query, pairs.image] = self.query_relpos(pairs.distance).T.to(value.dtype)
        blind = torch.ones(len(query), dtype=torch.bool, device=query.device).index_fill(0, pairs.query, False)
        bias = bias.masked_fill(blind[:, None], 0).repeat_interleave(cells, dim=2)
        asked = self.query_proj(query).unflatten(-1, (heads, -1)).transpose(0, 1)
        keys, values = value.flatten(0, 1).transpose(0, 1).chunk(2, dim=-1)
        mixed = F.scaled_dot_product_attention(asked, keys, values, bias).transpose(0, 1).flatten(1)
        return self.output_proj(mixed.masked_fill(blind[:, None], 0))

    def unseen(self) -> Tensor:
        """What a query that sees no image gets, [1, query_width]."""
        return self.output_proj(self.output_proj.weight.new_zeros(1, self.config.inner))


def build_cross_attention(
    kind: CrossAttention, query_width: int, value_width: int, config: SamplerConfig, base_size: int
) -> MMFS | DenseAttention:
    """The configured module. `base_size` is the side of the grid whose cells are the unit of MMFS offsets."""
    if kind == "deformable":
        return MMFS(query_width, value_width, config, base_size)
    return DenseAttention(query_width, value_width, config)
