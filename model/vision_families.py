"""The ViTs that can carry the adapter, taken from transformers by the family's name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import CLIPVisionConfig, PreTrainedConfig, SiglipVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPVisionEmbeddings
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, SiglipVisionEmbeddings

from model.config import VisionConfig


@dataclass(frozen=True)
class VisionFamily:
    """The library's classes. A CLIP has a class token and a norm before its layers, a SigLIP neither."""

    config: type[PreTrainedConfig]
    embeddings: type[nn.Module]
    layer: type[nn.Module]
    norm_first: bool

    def settings(self, config: VisionConfig) -> PreTrainedConfig:
        """The library's configuration."""
        return self.config(
            hidden_size=config.width,
            intermediate_size=config.mlp,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_px,
            patch_size=config.patch_px,
            hidden_act=config.activation,
            layer_norm_eps=config.layer_norm_eps,
            attn_implementation="sdpa",
        )


VISION_FAMILIES = {
    "clip": VisionFamily(CLIPVisionConfig, CLIPVisionEmbeddings, CLIPEncoderLayer, norm_first=True),
    "siglip": VisionFamily(SiglipVisionConfig, SiglipVisionEmbeddings, SiglipEncoderLayer, norm_first=False),
}
