"""Named sizes. This is the only place where a size is written; everything else derives from a ModelConfig."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from model.ablations import with_form, with_one_level
from model.config import (
    AutoencoderConfig,
    ConfigError,
    ImageDecoderConfig,
    LanguageConfig,
    ModelConfig,
    ResamplerConfig,
    SamplerConfig,
    VisionConfig,
)


def preset(name: str, *, vocab_size: int, **differs: Any) -> ModelConfig:
    """The named configuration for a tokenizer of `vocab_size` entries, with top-level fields replaced by `differs`.

    Raises ConfigError for an unknown preset or field.
    """
    if name not in PRESETS:
        raise ConfigError(f"model.preset: {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    config = PRESETS[name](vocab_size)
    unknown = [key for key in differs if not hasattr(config, key)]
    if unknown:
        raise ConfigError(f"model: {', '.join(unknown)} is no field of ModelConfig")
    return replace(config, **differs)


def _scratch(
    vocab_size: int,
    *,
    image_px: int,
    patch_px: int,
    vision_width: int,
    vision_layers: int,
    interactions: int,
    stem: int,
    language_width: int,
    language_layers: int,
    head_width: int,
    factor: int,
    blocks: tuple[int, ...],
    condition_tokens: int,
    max_positions: int,
) -> ModelConfig:
    """A model that learns from nothing: gates and last convolutions open, pixel space instead of a trained autoencoder."""
    vision = VisionConfig(
        image_px=image_px,
        patch_px=patch_px,
        width=vision_width,
        layers=vision_layers,
        heads=vision_width // head_width,
        mlp=2 * vision_width,
        activation="gelu",
        interactions=interactions,
        stem=stem,
        double_stem=False,
        points=2,
        injector_gamma=0.5,
        radial_offsets=True,
        # Of the built-in corpus: on a dark ground, 0.5 would leave every map an almost constant vector.
        mean=(0.16, 0.16, 0.16),
        std=(0.2, 0.2, 0.2),
    )
    middle = vision.pyramid[1]
    language = LanguageConfig(
        width=language_width,
        layers=language_layers,
        heads=language_width // head_width,
        kv_heads=language_width // head_width,
        mlp=(8 * language_width // 3 + 31) // 32 * 32,
        mmfs=SamplerConfig(
            heads=4,
            points=4,
            inner=language_width,
            levels=vision.pyramid[:3],
            table_rows=50,
            offset_init=middle / 2,
            train_sink=True,
            offset_start="tiles",
        ),
        mmfs_base=middle,
        cross_frequency=2,
        gate_init=1.5,
        rms_eps=1e-5,
        max_positions=max_positions,
    )
    channels = 3 * factor**2
    levels = len(blocks)
    unet = {
        "sample_size": image_px // factor,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(blocks),
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1)],
        "up_block_types": [*["CrossAttnUpBlock2D"] * (levels - 1), "UpBlock2D"],
        "cross_attention_dim": language_width,
        "attention_head_dim": 4,
        "norm_num_groups": blocks[0] // 2,  # few channels a group: their scale is what a patch of pixels says
        "use_linear_projection": True,
    }
    decoder = ImageDecoderConfig(
        output_px=image_px,
        autoencoder=AutoencoderConfig(kind="pixel", factor=factor),
        unet=unet,
        scheduler={
            "num_train_timesteps": 1000,
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "sample",
            "clip_sample": False,
            "timestep_spacing": "trailing",
        },
        resampler=ResamplerConfig(
            queries=condition_tokens,
            width=language_width,
            encoder_width=language_width,
            layers=1,
            heads=language_width // head_width,
            intermediate=2 * language_width,
        ),
        mmfs=SamplerConfig(heads=4, points=4, inner=64, levels=vision.pyramid, table_rows=10, offset_init=1.0, train_sink=False),
        position_grid=image_px // factor,
        conv_init=0.05,
        quiet_start=True,
    )
    return ModelConfig(
        vocab_size=vocab_size,
        vision=vision,
        visual_resampler=ResamplerConfig(
            queries=vision.grid**2,
            width=vision_width,
            encoder_width=vision_width,
            layers=2,
            heads=vision_width // head_width,
            cross_frequency=1,
            intermediate=2 * vision_width,
            qk_norm=True,
            queries_start="grid",
        ),
        language=language,
        image_decoder=decoder,
        init_std=None,
        embedding_std=0.3,
        visual_init_std=0.05,
    )


def _smoke(vocab_size: int) -> ModelConfig:
    """The whole line within a minute, for tests: learns little."""
    return _scratch(
        vocab_size,
        image_px=32,
        patch_px=16,
        vision_width=32,
        vision_layers=2,
        interactions=2,
        stem=16,
        language_width=64,
        language_layers=2,
        head_width=16,
        factor=4,
        blocks=(32, 48),
        condition_tokens=4,
        max_positions=1024,
    )


def _tiny(vocab_size: int) -> ModelConfig:
    """The laptop line: learns the built-in corpus in two minutes on two CPU cores."""
    return _scratch(
        vocab_size,
        image_px=32,
        patch_px=16,
        vision_width=96,
        vision_layers=2,
        interactions=1,
        stem=16,
        language_width=96,
        language_layers=3,
        head_width=32,
        factor=4,
        blocks=(96, 96),
        condition_tokens=8,
        max_positions=2048,
    )


def _small(vocab_size: int) -> ModelConfig:
    """Half an hour on two CPU cores."""
    return _scratch(
        vocab_size,
        image_px=32,
        patch_px=16,
        vision_width=128,
        vision_layers=2,
        interactions=1,
        stem=48,
        language_width=128,
        language_layers=4,
        head_width=32,
        factor=4,
        blocks=(128, 128),
        condition_tokens=8,
        max_positions=2048,
    )


_CLIP_L = VisionConfig(image_px=224, patch_px=14, width=1024, layers=24, heads=16, mlp=4096)
"""openai/clip-vit-large-patch14."""

_SD_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "steps_offset": 1,
}
_SD_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
_SD_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "norm_num_groups": 32,
}


def published(
    vocab_size: int,
    *,
    vision: VisionConfig,
    visual_resampler: ResamplerConfig,
    language: dict[str, Any],
    unet: dict[str, Any],
    vae: dict[str, Any],
    output_px: int,
    condition_heads: int,
    scheduler: dict[str, Any] | None = None,
    pad_id: int = 31999,
    bos_id: int = 1,
    eos_id: int = 2,
) -> ModelConfig:
    """The architecture and behaviour of the release around components of any size (mm_interleaved.md 1).

    language: fields of LanguageConfig beside MMFS.
    """
    side = output_px // 8
    # The release counts by whole halvings of 512 pixels: at 192 the tensors are 24 cells wide, their base and table 32.
    base = 64 // (512 // output_px) if 0 < output_px <= 512 else side
    sampler = SamplerConfig(
        heads=16, points=8, inner=vision.width, levels=vision.pyramid[1:], table_rows=50, offset_init=3.0, train_sink=True
    )
    decoding = LanguageConfig(**language, mmfs=sampler, mmfs_base=vision.pyramid[2])
    decoder = ImageDecoderConfig(
        output_px=output_px,
        autoencoder=AutoencoderConfig(kind="vae", factor=8, values={**vae, "sample_size": output_px}),
        unet={**unet, "sample_size": side},
        scheduler=scheduler or _SD_SCHEDULER,
        resampler=ResamplerConfig(
            queries=77, width=unet["cross_attention_dim"], encoder_width=decoding.width, layers=1, heads=condition_heads
        ),
        mmfs=replace(sampler, inner=1024, levels=vision.pyramid, table_rows=10, offset_init=1.0, train_sink=False),
        position_grid=base,
        mmfs_base=base,
    )
    return ModelConfig(
        vocab_size=vocab_size,
        vision=vision,
        visual_resampler=visual_resampler,
        language=decoding,
        image_decoder=decoder,
        attention="release",
        image_loss_mean="release",
        text_loss_mean="release",
        frozen_head_bias=-100.0,
        new_head_bias=95.0,
        visual_init_std=1e-3,
        pad_id=pad_id,
        bos_id=bos_id,
        eos_id=eos_id,
    )


def published_resampler(queries: int, encoder_width: int) -> ResamplerConfig:
    """The release's visual resampler behind an encoder of this width."""
    return ResamplerConfig(
        queries=queries, width=768, encoder_width=encoder_width, layers=12, heads=12, cross_frequency=2, qk_norm=True, dropout=0.1
    )


def _official_tiny(vocab_size: int) -> ModelConfig:
    """The published architecture at the size of the reference tensors."""
    return published(
        vocab_size,
        vision=VisionConfig(image_px=224, patch_px=14, width=64, layers=24, heads=4, mlp=128),
        visual_resampler=ResamplerConfig(
            queries=8, width=64, encoder_width=64, layers=2, heads=4, cross_frequency=2, qk_norm=True, dropout=0.1
        ),
        language={"width": 128, "layers": 8, "heads": 4, "kv_heads": 4, "mlp": 256},
        unet={
            **_SD_UNET,
            "block_out_channels": [32, 32, 64, 64],
            "cross_attention_dim": 64,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
            "use_linear_projection": True,
        },
        vae={**_SD_VAE, "block_out_channels": [16, 16, 32, 32], "layers_per_block": 1, "norm_num_groups": 8},
        output_px=128,
        condition_heads=4,
        pad_id=99,
    )


def _release_13b(vocab_size: int) -> ModelConfig:
    """The released model: CLIP ViT-L/14, Vicuna-13B v1.3, Stable Diffusion 2.1-base at 512 pixels, 64 visual tokens."""
    return published(
        vocab_size,
        vision=_CLIP_L,
        visual_resampler=published_resampler(64, _CLIP_L.width),
        language={"width": 5120, "layers": 40, "heads": 40, "kv_heads": 40, "mlp": 13824},
        unet={**_SD_UNET, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
        vae=_SD_VAE,
        output_px=512,
        condition_heads=16,
    )


def _ablation_3b(vocab_size: int) -> ModelConfig:
    """The paper's ablations: CLIP ViT-L/14, OpenLLaMA-3B v2, miniSD at 256 pixels, 32 visual tokens, the nearest image and one map."""
    config = published(
        vocab_size,
        vision=_CLIP_L,
        visual_resampler=published_resampler(32, _CLIP_L.width),
        language={"width": 3200, "layers": 26, "heads": 32, "kv_heads": 32, "mlp": 8640},
        unet={**_SD_UNET, "cross_attention_dim": 768, "attention_head_dim": 8},
        vae=_SD_VAE,
        output_px=256,
        condition_heads=12,
    )
    return with_one_level(replace(config, visible_images="nearest"))


def _paper_13b(vocab_size: int) -> ModelConfig:
    """The main model as the paper describes it: Eq. 4 literally, and MMFS after each up block of the UNet."""
    config = with_form(_release_13b(vocab_size), "paper")
    return replace(
        config,
        image_decoder=replace(config.image_decoder, wiring="upsampling"),
        attention="document",
        image_loss_mean="trained",
        text_loss_mean="guarded",
    )


PRESETS: dict[str, Callable[[int], ModelConfig]] = {
    "smoke": _smoke,
    "tiny": _tiny,
    "small": _small,
    "official_tiny": _official_tiny,
    "ablation_3b": _ablation_3b,
    "release_13b": _release_13b,
    "paper_13b": _paper_13b,
}

NEEDS_GPU = frozenset({"ablation_3b", "release_13b", "paper_13b"})
"""Presets of billions of parameters."""
