"""Llama-like decoder whose every k-th layer looks at images through a gated MMFS between attention and MLP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from model.config import CrossAttention, LanguageConfig
from model.cross_attention import build_cross_attention
from model.language_families import FAMILIES, Family
from model.mmfs_linears import Prepared
from model.recompute import call
from model.sequence import Pairs
from model.shared_projection import SharedProjection, project_shared


class GatedMMFS(nn.Module):
    """tanh(gate) * MMFS(norm(tokens), norm(features)); every token looks from the middle of the picture."""

    def __init__(self, config: LanguageConfig, value_width: int, kind: CrossAttention) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.full((1,), config.gate_init))
        self.norm1 = LlamaRMSNorm(config.width, eps=config.rms_eps)
        self.norm2 = LlamaRMSNorm(value_width, eps=config.rms_eps)
        self.attn = build_cross_attention(kind, config.width, value_width, config.mmfs, config.mmfs_base)
        self.register_buffer("centre", torch.full((1, 2), 0.5), persistent=False)

    def project(self, features: Tensor) -> Tensor:
        """Values of image features [n, cells, value_width]; the same for every token and decoding step."""
        return project_shared(features, [(self.norm2, self.attn)])[0]

    def forward(self, tokens: Tensor, value: Tensor, pairs: Pairs, prepared: Prepared | None = None) -> Tensor:
        """tokens [B, L, width]; returns the update, same shape."""
        flat = self.norm1(tokens).flatten(0, 1)
        return self.gate.tanh() * self.attn(flat, value, self.centre, pairs, prepared).view_as(tokens)


class DecoderLayer(nn.Module):
    """Self-attention, MMFS where this layer has one, MLP; each pre-norm with a residual."""

    def __init__(self, family: Family, settings: PreTrainedConfig, index: int, cross: GatedMMFS | None) -> None:
        super().__init__()
        self.self_attn = family.attention(settings, index)
        self.mlp = family.mlp(settings)
        self.input_layernorm = family.norm(settings.hidden_size, eps=settings.rms_norm_eps)
        self.post_attention_layernorm = family.norm(settings.hidden_size, eps=settings.rms_norm_eps)
        self.llama_cross_attn = cross

    def forward(
        self,
        hidden: Tensor,
        attention: Tensor,
        rotary: tuple[Tensor, Tensor],
        value: Tensor | None,
        pairs: Pairs,
        cache: DynamicCache | None,
        prepared: Prepared | None = None,
    ) -> Tensor:
        """hidden [B, L, width]; attention [B, 1, L, K] bool; value from `project`, None without MMFS; prepared from `prepare` or None."""
        update, _ = self.self_attn(self.input_layernorm(hidden), rotary, attention, past_key_values=cache)
        hidden = hidden + update
        if self.llama_cross_attn is not None:
            assert value is not None  # `project` gives a value to every layer that looks
            hidden = hidden + self.llama_cross_attn(hidden, value, pairs, prepared)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class LlamaMMFS(nn.Module):
    """The language model without its head, with or without a look at images."""

    def __init__(self, config: LanguageConfig, entries: int, value_width: int, cross_attention: CrossAttention | Literal["off"]) -> None:
        super().__init__()
        family = FAMILIES[config.family]
        settings = family.settings(config, entries)
        self.embed_tokens = nn.Embedding(entries, config.width)
        self.layers = nn.ModuleList(
            DecoderLayer(
                family,
                settings,
                index,
                None if cross_attention == "off" or index % config.cross_frequency else GatedMMFS(config, value_width, cross_attention),
            )
            for index in range(config.layers)
        )
        self.projection = SharedProjection()
        self.recompute = False
        self.norm = family.norm(config.width, eps=config.rms_eps)
        self.rotary = family.rotary(settings)

    def project(self, features: Tensor) -> list[Tensor | None]:
        """Per layer the values of image features [n, cells, value_width], None for layers without MMFS."""
        looking = [each for each in self._attentions() if each is not None]
        values = iter(self.projection(features, [(each.norm2, each.attn) for each in looking]))
        return [None if each is None else next(values) for each in self._attentions()]

    def prepare(self) -> list[Prepared | None]:
        """Per layer what reading on and on with the present weights may share; None where there is nothing."""
        return [None if each is None else each.attn.prepare() for each in self._attentions()]

    def forward(
        self,
        embeddings: Tensor,
        attention: Tensor,
        positions: Tensor,
        values: Sequence[Tensor | None],
        pairs: Pairs,
        cache: DynamicCache | None = None,
        prepared: Sequence[Prepared | None] | None = None,
    ) -> Tensor:
        """embeddings [B, L, width], attention [B, 1, L, keys] bool, positions [B or 1, L]; returns hidden states after the final norm.

        values per layer from `project`, prepared from `prepare` or None for weights that change between calls.
        """
        rotary = self.rotary(embeddings, positions)
        hidden = embeddings
        ready = [None] * len(self.layers) if prepared is None else prepared
        for layer, value, own in zip(self.layers, values, ready, strict=True):
            # Computed again, a layer would put its keys into the cache a second time.
            hidden = call(layer, hidden, attention, rotary, value, pairs, cache, own, recompute=self.recompute and cache is None)
        return self.norm(hidden)

    def _attentions(self) -> list[GatedMMFS | None]:
        return [layer.llama_cross_attn for layer in cast(Iterable[DecoderLayer], self.layers)]
