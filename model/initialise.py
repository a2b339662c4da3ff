"""First values of the weights (mm_interleaved.md 1.2 to 1.6), drawn from torch's current random state in module order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from model.config import ModelConfig, ResamplerConfig, SamplerConfig
from model.image_decoder import DiffusionDecoder
from model.llama_mmfs import LlamaMMFS
from model.mm_interleaved import MMInterleaved
from model.mmfs import MMFS
from model.mmfs_net import MMFSBlock
from model.positions import sincos_2d
from model.resampler import Layer, PerceiverResampler
from model.vision_encoder import VisionModel

_HEAD_STD = 0.05
"""Of a text head that starts as the embeddings."""


@torch.no_grad()
def initialise(model: MMInterleaved) -> None:
    """Overwrite the libraries' defaults where the release differs; convolutions and the UNet keep theirs."""
    config: ModelConfig = model.config
    for module in model.modules():
        if isinstance(module, LlamaMMFS):
            _normal_linears(module, config.init_std)
            nn.init.normal_(module.embed_tokens.weight, std=config.embedding_std)
            if config.language.start == "mimetic":
                _look_alike(module)
        elif isinstance(module, VisionModel):
            _normal_linears(module.encoder, config.init_std)
            embeddings = cast(Any, module.embeddings)
            if config.vision.class_tokens:
                nn.init.normal_(embeddings.class_embedding, std=config.vision.width**-0.5)
            nn.init.normal_(embeddings.patch_embedding.weight, std=config.embedding_std)
            nn.init.normal_(embeddings.position_embedding.weight, std=config.embedding_std)
        elif isinstance(module, PerceiverResampler):
            _normal_linears(module, config.init_std)
            nn.init.normal_(module.queries, std=0.02)
    for module in model.modules():
        if isinstance(module, MMFS):
            _mmfs(module)
        elif isinstance(module, MMFSBlock):
            nn.init.normal_(module.conv.weight, std=config.image_decoder.conv_init)
            nn.init.zeros_(cast(Tensor, module.conv.bias))
        elif isinstance(module, DiffusionDecoder) and config.image_decoder.quiet_start:
            _quieten(module.unet)
    if config.visual_resampler.queries_start == "grid" and config.visual_tokens == "resampler":
        _spread_over_grid(model.visual_tokenizer.perceiver_resampler, config.visual_resampler)
    nn.init.normal_(model.visual_tokenizer.proj.weight, std=config.visual_init_std)
    nn.init.zeros_(model.visual_tokenizer.proj.bias)
    _heads(model, config)


def _heads(model: MMInterleaved, config: ModelConfig) -> None:
    head, new = model.text_decoder.head, model.text_decoder.head_new
    if config.language.start == "mimetic":
        head.weight.copy_(model.mm_decoder.embed_tokens.weight * (_HEAD_STD / config.embedding_std))
    else:
        nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.weight[config.vocab_size :])
    nn.init.zeros_(head.bias)
    nn.init.constant_(head.bias[config.vocab_size :], config.frozen_head_bias)
    nn.init.zeros_(new.weight)
    nn.init.constant_(new.bias, config.new_head_bias)


def _look_alike(language: LlamaMMFS) -> None:
    """Queries start near their keys and outputs near the transposed values, as trained attention has them (arXiv 2305.09828)."""
    for layer in language.layers:
        attention = cast(Any, layer).self_attn
        attention.q_proj.weight.lerp_(attention.k_proj.weight, 0.7)
        attention.o_proj.weight.lerp_(attention.v_proj.weight.T, 0.8)


def _quieten(unet: nn.Module) -> None:
    """Let the UNet start as its convolutions at full resolution: what attention and the coarse levels add first is noise."""
    for module in unet.modules():
        if isinstance(module, Transformer2DModel):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
        elif isinstance(module, Upsample2D):
            module.conv.weight.mul_(0.1)
            nn.init.zeros_(module.conv.bias)


def _mmfs(module: MMFS) -> None:
    config = module.config
    nn.init.zeros_(module.sampling_offsets.weight)
    nn.init.uniform_(module.sampling_offsets.bias, -config.offset_init, config.offset_init)
    if config.offset_start == "tiles":
        _gather_in_tiles(module.sampling_offsets.bias, config)
    for layer in (module.attention_weights, module.dynamic_offset_mask, module.value_proj, module.output_proj):
        nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(module.value_proj.weight)
    nn.init.xavier_uniform_(module.output_proj.weight)
    nn.init.trunc_normal_(module.query_relpos.weight, std=0.02)


def _spread_over_grid(resampler: PerceiverResampler, config: ResamplerConfig) -> None:
    """Each query starts as the position of its cell, and keys are asked as queries are: it reads mostly what lies there."""
    resampler.queries.copy_(sincos_2d(math.isqrt(config.queries), config.width))
    for layer in cast(Iterable[Layer], resampler.blip2qformer.encoder.layer):
        if layer.crossattention is not None:
            attention = layer.crossattention.attention
            attention.query.weight.copy_(attention.key.weight)


def _gather_in_tiles(offsets: nn.Parameter, config: SamplerConfig) -> None:
    """Move each head's points into its own tile of the square they cover, so that heads start with different parts of a picture."""
    tiles = math.ceil(config.heads**0.5)
    head = torch.arange(config.heads)
    tile = torch.stack((head % tiles, head // tiles), dim=-1)
    centre = ((tile + 0.5) / tiles * 2 - 1) * config.offset_init
    points = offsets.view(config.heads, config.points, 2)
    points.copy_(centre[:, None] + points / tiles)


def _normal_linears(module: nn.Module, std: float | None) -> None:
    """Without a fixed deviation, one over the root of the inputs: at small widths 0.02 lets next to nothing of a picture through."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std or layer.in_features**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
