"""The layers of Llama-like language models, taken from transformers by the family's name: they share their layout and differ in details."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralMLP, MistralRMSNorm, MistralRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2MLP, Qwen2RMSNorm, Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3MLP, Qwen3RMSNorm, Qwen3RotaryEmbedding

from model.config import LanguageConfig


@dataclass(frozen=True)
class Family:
    """The library's classes. Qwen2 has biases in its attention, Qwen3 norms on queries and keys; windows of Mistral are not applied."""

    config: type[PreTrainedConfig]
    attention: type[nn.Module]
    mlp: type[nn.Module]
    norm: type[nn.Module]
    rotary: type[nn.Module]

    def settings(self, config: LanguageConfig, entries: int) -> PreTrainedConfig:
        """The library's configuration of a model with `entries` tokens."""
        values: dict[str, Any] = {
            "vocab_size": entries,
            "hidden_size": config.width,
            "intermediate_size": config.mlp,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_width or config.width // config.heads,
            "max_position_embeddings": config.max_positions,
            "rms_norm_eps": config.rms_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "sliding_window": None,
            "attn_implementation": "sdpa",
        }
        if self.config is LlamaConfig:
            del values["sliding_window"]
        return self.config(**values)


FAMILIES = {
    "llama": Family(LlamaConfig, LlamaAttention, LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding),
    "mistral": Family(MistralConfig, MistralAttention, MistralMLP, MistralRMSNorm, MistralRotaryEmbedding),
    "qwen2": Family(Qwen2Config, Qwen2Attention, Qwen2MLP, Qwen2RMSNorm, Qwen2RotaryEmbedding),
    "qwen3": Family(Qwen3Config, Qwen3Attention, Qwen3MLP, Qwen3RMSNorm, Qwen3RotaryEmbedding),
}
