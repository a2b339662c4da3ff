"""First values of the weights (mm_interleaved.md 1.2 to 1.6), drawn from torch's current random state in module order."""

from __future__ import annotations

import torch
from torch import nn

from model.clip_encoder import VisionModel
from model.config import ModelConfig
from model.llama_mmfs import LlamaMMFS
from model.mm_interleaved import MMInterleaved
from model.mmfs import MMFS
from model.mmfs_net import MMFSBlock
from model.resampler import PerceiverResampler


@torch.no_grad()
def initialise(model: MMInterleaved) -> None:
    """Overwrite the libraries' defaults where the release differs; convolutions and the UNet keep theirs."""
    config: ModelConfig = model.config
    for module in model.modules():
        if isinstance(module, LlamaMMFS):
            _normal_linears(module, config.init_std)
            nn.init.normal_(module.embed_tokens.weight, std=config.init_std)
        elif isinstance(module, VisionModel):
            _normal_linears(module.encoder, config.init_std)
            nn.init.normal_(module.embeddings.class_embedding, std=config.vision.width**-0.5)
            nn.init.normal_(module.embeddings.patch_embedding.weight, std=config.init_std)
            nn.init.normal_(module.embeddings.position_embedding.weight, std=config.init_std)
        elif isinstance(module, PerceiverResampler):
            _normal_linears(module, config.init_std)
            nn.init.normal_(module.queries, std=config.init_std)
    for module in model.modules():
        if isinstance(module, MMFS):
            _mmfs(module)
        elif isinstance(module, MMFSBlock):
            nn.init.normal_(module.conv.weight, std=config.image_decoder.conv_init)
            nn.init.zeros_(module.conv.bias)
    nn.init.normal_(model.visual_tokenizer.proj.weight, std=config.visual_init_std)
    nn.init.zeros_(model.visual_tokenizer.proj.bias)
    _heads(model, config)


def _heads(model: MMInterleaved, config: ModelConfig) -> None:
    head, new = model.text_decoder.head, model.text_decoder.head_new
    nn.init.normal_(head.weight, std=config.init_std)
    nn.init.zeros_(head.weight[config.vocab_size :])
    nn.init.zeros_(head.bias)
    nn.init.constant_(head.bias[config.vocab_size :], config.frozen_head_bias)
    nn.init.zeros_(new.weight)
    nn.init.constant_(new.bias, config.new_head_bias)


def _mmfs(module: MMFS) -> None:
    magnitude = module.config.offset_init
    nn.init.zeros_(module.sampling_offsets.weight)
    nn.init.uniform_(module.sampling_offsets.bias, -magnitude, magnitude)
    for layer in (module.attention_weights, module.dynamic_offset_mask, module.value_proj, module.output_proj):
        nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(module.value_proj.weight)
    nn.init.xavier_uniform_(module.output_proj.weight)
    nn.init.trunc_normal_(module.query_relpos.weight, std=0.02)


def _normal_linears(module: nn.Module, std: float) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
