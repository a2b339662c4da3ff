"""BLIP-2 Q-Former blocks used as a perceiver: learned queries read a sequence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ResamplerConfig

LAYER_NORM_EPS = 1e-12


class Projections(nn.Module):
    """Multi-head attention without its output projection."""

    def __init__(self, config: ResamplerConfig, source_width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(source_width, config.width)
        self.value = nn.Linear(source_width, config.width)
        head_width = config.width // config.heads
        self.q_norm = nn.LayerNorm(head_width, eps=LAYER_NORM_EPS) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_width, eps=LAYER_NORM_EPS) if config.qk_norm else nn.Identity()

    def forward(self, tokens: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """tokens [n, Q, width], source [n, T, source_width], mask [n, 1, 1, T] bool, True = may be read."""
        query = self.q_norm(self.query(tokens).unflatten(-1, (self.heads, -1))).transpose(1, 2)
        key = self.k_norm(self.key(source).unflatten(-1, (self.heads, -1))).transpose(1, 2)
        value = self.value(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=self.dropout if self.training else 0.0)
        return mixed.transpose(1, 2).flatten(2)


class Residual(nn.Module):
    """Projection, dropout, sum, post-norm."""

    def __init__(self, inputs: int, config: ResamplerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, update: Tensor, tokens: Tensor) -> Tensor:
        """Same shape as tokens."""
        return self.LayerNorm(self.dropout(self.dense(update)) + tokens)


class Attention(nn.Module):
    """Attention with its residual, under the names of the public checkpoints."""

    def __init__(self, config: ResamplerConfig, source_width: int) -> None:
        super().__init__()
        self.attention = Projections(config, source_width)
        self.output = Residual(config.width, config)

    def forward(self, tokens: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Same shape as tokens."""
        return self.output(self.attention(tokens, source, mask), tokens)


class Intermediate(nn.Module):
    """First half of the feed-forward."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.intermediate)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, Q, intermediate]."""
        return F.gelu(self.dense(tokens))


class Layer(nn.Module):
    """Self-attention among the queries, cross-attention in every `cross_frequency`-th layer, feed-forward."""

    def __init__(self, config: ResamplerConfig, index: int) -> None:
        super().__init__()
        self.attention = Attention(config, config.width)
        self.crossattention = Attention(config, config.encoder_width) if index % config.cross_frequency == 0 else None
        self.intermediate_query = Intermediate(config)
        self.output_query = Residual(config.intermediate, config)

    def forward(self, tokens: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Same shape as tokens."""
        tokens = self.attention(tokens, tokens)
        if self.crossattention is not None:
            tokens = self.crossattention(tokens, source, mask)
        return self.output_query(self.intermediate_query(tokens), tokens)


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(config, index) for index in range(config.layers)])

    def forward(self, tokens: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Same shape as tokens."""
        for layer in self.layer:
            tokens = layer(tokens, source, mask)
        return tokens


class QFormer(nn.Module):
    """Input norm and layers, under the names of the public checkpoints."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Encoder(config)

    def forward(self, queries: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Same shape as queries."""
        return self.encoder(self.dropout(self.layernorm(queries)), source, mask)


class PerceiverResampler(nn.Module):
    """A sequence of any length to a fixed number of tokens."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, config.queries, config.width))
        self.blip2qformer = QFormer(config)

    def forward(self, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """source [n, T, encoder_width], mask [n, T] bool, True = real; returns [n, queries, width]."""
        queries = self.queries.expand(len(source), -1, -1)
        return self.blip2qformer(queries, source, None if mask is None else mask[:, None, None, :])
